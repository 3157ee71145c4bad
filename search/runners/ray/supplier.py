"""What travels between the driver and its workers beside plain data: through Ray's object store, once to each node."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from petlas.search.run_folder import RunError
from petlas.search.runners.ray.pack import JobPack
from petlas.search.stages.rounds import Job
from petlas.search.supplies import Supply
from petlas.search.supplying import supplies_of
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")

_SHARE = 0.8
"""Of a node's object store, for what never changes; the rest is for files on their way."""


@dataclass(frozen=True)
class Delivered(Mapping[str, Any]):
    """Things in Ray's object store by their names, fetched when they are asked for; arrays are read where they lie.

    Args:
        refs: Where each is.
    """

    refs: tuple[tuple[str, ray.ObjectRef[Any]], ...]

    def __getitem__(self, name: str) -> Any:
        return ray.get(dict(self.refs)[name])

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.refs))

    def __len__(self) -> int:
        return len(self.refs)

    def __contains__(self, name: object) -> bool:
        return name in dict(self.refs)  # Mapping's own would fetch it


class Sent:
    """Files that a worker sends with a result; Tune keeps results, and so who takes them leaves nothing behind.

    Args:
        files: Their contents by their names in the run folder.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)

    def taken(self) -> dict[str, bytes]:
        """The files, once."""
        files, self._files = self._files, {}
        return files


class Supplier:
    """Hands workers what they need: each thing is put into the object store once, whatever the number of runs.

    Args:
        paths: Whether workers open data and weights themselves, where the driver does.
    """

    def __init__(self, paths: bool) -> None:
        self._paths = paths
        self._held: dict[str, ray.ObjectRef[Any]] = {}
        self._files: dict[Path, tuple[tuple[int, int], ray.ObjectRef[Any]]] = {}

    def about(self, job: Job | JobPack) -> dict[str, Any]:
        """Where a job's worker finds what it needs, as it travels to it.

        Args:
            job: What is handed out.
        """
        supplies, place = self.of_bench(job.bench, job.views)
        return {"supplies": supplies, "files": self.files(job), "place": place}

    def files(self, job: Job | JobPack) -> Delivered:
        """The files of the run folder that a job's worker may read.

        Args:
            job: What is handed out.
        """
        return Delivered(tuple(self._file_refs(job)))

    def of_bench(
        self, bench: Workbench, views: Sequence[str] = ("trainval",)
    ) -> tuple[Delivered, dict[str, str] | None]:
        """What a run's work needs whatever it is, and where it opens the rest, if it does.

        Args:
            bench: The run's workbench.
            views: Whose images it reads.
        """
        supplies = [supply for supply in supplies_of(bench, views) if not (self._paths and supply.on_disk)]
        held = Delivered(tuple((supply.name, self._hold(supply)) for supply in supplies))
        return held, _place() if self._paths else None

    def _hold(self, supply: Supply) -> ray.ObjectRef[Any]:
        if supply.key not in self._held:
            self._held[supply.key] = ray.put(supply.make())
        return self._held[supply.key]

    def _file_refs(self, job: Job | JobPack) -> Iterator[tuple[str, ray.ObjectRef[Any]]]:
        for name in job.files:
            path = job.bench.config.folder / name
            if (data := job.bench.files.read(name) if self._changed(path) else None) is not None:
                self._files[path] = (_state(path), ray.put(data))
            if path in self._files:
                yield name, self._files[path][1]

    def _changed(self, path: Path) -> bool:
        """Whether a file is not what was put last; one that is gone is forgotten."""
        state = _state(path)
        if state == (0, 0):
            self._files.pop(path, None)
        return state != (0, 0) and (path not in self._files or self._files[path][0] != state)


def _state(path: Path) -> tuple[int, int]:
    """What of a file changes when it is replaced; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _place() -> dict[str, str]:
    """Where relative paths and default folders are, for workers that open what the driver opens."""
    return {"cwd": os.getcwd()} | {key: os.environ[key] for key in ("PETLAS_DATA", "PETLAS_CACHE") if key in os.environ}


def enter(place: Mapping[str, str] | None) -> None:
    """Be in the driver's place.

    Args:
        place: As `Supplier.about` tells it; None to stay.

    Raises:
        OSError: When this node has no such folder.
    """
    if place is not None:
        os.environ.update({key: value for key, value in place.items() if key != "cwd"})
        os.chdir(place["cwd"])


def size_of(benches: Iterable[Workbench], views: Sequence[str]) -> int:
    """Bytes of all that is handed to workers.

    Args:
        benches: Of the runs.
        views: Whose images the work reads.
    """
    sizes = {supply.key: supply.size for bench in benches for supply in supplies_of(bench, views)}
    return sum(sizes.values())


def by_path(data: str, size: int) -> bool:
    """Whether workers open data and weights themselves.

    Args:
        data: `resources.data`.
        size: Bytes of all that they would be handed.

    Raises:
        RunError: When they are to be handed more than a node can hold.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    room = min((node.get("object_store_memory", 0) for node in nodes), default=0)
    fits = size <= _SHARE * room
    told = f"{size / 1e9:.1f} GB of images and weights, and a node's object store holds {room / 1e9:.1f}"
    if data == "object_store" and not fits:
        raise RunError(
            f"resources.data=object_store needs room for {told}; give Ray more (ray start --object-store-memory), "
            "or set resources.data=path where all nodes see the same files"
        )
    if data == "auto" and not fits:
        log.warning("there are %s: every node is to see the same files (resources.data=path)", told)
    return data == "path" or not fits
