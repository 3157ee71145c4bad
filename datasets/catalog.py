"""Finds tasks by name: those that come with petlas, data sets below a root folder, and folders of any layout."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from petlas.datasets.errors import DataError, shown
from petlas.datasets.images import ValueRange
from petlas.datasets.names import ALIASES, TORCHVISION, VTAB
from petlas.datasets.readers import READERS, get_reader, is_certain, layout_of
from petlas.datasets.readers.base import ReadOptions
from petlas.datasets.readers.torchvision import fetch
from petlas.datasets.task import Task
from petlas.datasets.tree import Tree

_FALLBACK = "folder"  # its reader says what is wrong with a folder that none recognises


@dataclass(frozen=True)
class TaskInfo:
    """One line of `petlas datasets`, in plain types.

    Args:
        name: Of the task.
        layout: "built-in", or the reader's name.
        found: Whether it is there.
        path: Its folder.
        fault: What is wrong with one that was found.
        kind: What its targets are.
        num_classes: How many classes it has.
        counts: How many images each view has.
        notes: What was left out or is odd.
    """

    name: str
    layout: str
    found: bool
    path: str | None = None
    fault: str | None = None
    kind: str | None = None
    num_classes: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def open_task(
    name: str,
    root: str | Path | None = None,
    split_seed: int = 0,
    value_range: ValueRange | None = None,
    shots: int | None = None,
    shot_seed: int = 0,
    download: bool = False,
    start: str | Path = ".",
) -> Task:
    """The task of a name: `digits`, a data set's folder name below the root, or a path to its folder or table.

    Args:
        name: Of the task.
        root: A folder that may hold `vtab-1k`, be it, or be the data set's own; by default PETLAS_DATA.
        split_seed: Decides which images are set aside where the data has no val or no test.
        value_range: What is black and white in images of more than 8 bits.
        shots: How many images of each class to learn from, where the data is of few-shot splits.
        shot_seed: Which of their drawings.
        download: Whether one of torchvision's data sets may be fetched to the root, if it is not there.
        start: A folder that relative paths lead from, before the working directory.

    Raises:
        DataError: When there is no such task, or its data is at fault.
    """
    options = ReadOptions(split_seed, _checked(value_range), shots, shot_seed)
    for layout in READERS:
        if name in get_reader(layout).builtin:
            return _read(layout, Path(name), options)
    base = _root(root, start)
    looked = list(dict.fromkeys(_places(name, base, start)))
    if download and base and name in TORCHVISION and not any(path.exists() for path in looked):
        fetch(name, base)
    try:
        # A folder of no layout comes last: its classes may hold their images deeper down, or its fault is told.
        usable = [path for path in looked if layout_of(path)] or [path for path in looked if path.is_dir()]
        if not name.strip() or not usable:
            raise _unknown(name, base, looked, start)
        return _read(layout_of(usable[0]) or _FALLBACK, usable[0], options)
    except OSError as error:
        raise DataError(f"task {name!r} cannot be read ({error}); check the folder and its permissions") from error


def list_tasks(root: str | Path | None = None) -> list[TaskInfo]:
    """Every task that is known or found below `root`; the found ones are opened, which checks them."""
    base = _root(root)
    found = {path.name: path for path in _datasets(base)}
    infos = [_info(name, "built-in", None) for name in _builtin()]
    for name in VTAB:
        path = next((found.pop(n) for n in _synonyms(name) if n in found), None)
        infos.append(_info(name, layout_of(path) or "vtab", path) if path else TaskInfo(name, "vtab", found=False))
    return infos + [_info(name, layout_of(path) or _FALLBACK, path) for name, path in sorted(found.items())]


def _read(layout: str, path: Path, options: ReadOptions) -> Task:
    reader = get_reader(layout)
    if options.shots is not None and not reader.takes_shots:
        known = ", ".join(name for name in READERS if get_reader(name).takes_shots)
        raise DataError(
            f"{shown(path)}: task.shots needs few-shot splits ({known}), and this is of layout {layout}; leave it out"
        )
    return reader.read(path, options)


def _builtin() -> list[str]:
    return [name for layout in READERS for name in get_reader(layout).builtin]


def _info(name: str, layout: str, path: Path | None) -> TaskInfo:
    where = str(path) if path else None
    try:
        task = open_task(where or name)
    except DataError as error:
        return TaskInfo(name, layout, found=True, path=where, fault=str(error))
    counts = {view: len(task.views[view]) for view in task.views}
    return TaskInfo(
        name, layout, True, where, None, task.kind, num_classes=task.num_classes, counts=counts, notes=[*task.notes]
    )


def _checked(value_range: ValueRange | None) -> ValueRange | None:
    if value_range is None:
        return None
    low, high = (float(value) for value in value_range)
    if not low < high < float("inf") or low == -float("inf"):
        raise DataError(f"value_range must be [LOW, HIGH] with LOW below HIGH, got [{low:g}, {high:g}]")
    return low, high


def _root(root: str | Path | None, start: str | Path = ".") -> Path | None:
    chosen = root or os.environ.get("PETLAS_DATA")
    if not chosen:
        return None
    looked = list(dict.fromkeys(_led(chosen, start)))
    base = next((place for place in looked if place.is_dir()), None)
    if base is None:
        origin = "the root folder" if root else "PETLAS_DATA's folder"
        places = " or ".join(map(shown, looked))
        raise DataError(f"{places}: {origin} does not exist; give the folder that holds the data sets")
    return base


def _led(path: str | Path, start: str | Path) -> Iterator[Path]:
    """Where a path leads to, from a folder and from the working directory."""
    yield Path(start, Path(path).expanduser()).absolute()
    yield Path(path).expanduser().absolute()


def _synonyms(name: str) -> list[str]:
    """The name, and what other copies call the same data set."""
    canonical = ALIASES.get(name, name)
    return list(dict.fromkeys([name, canonical, *(alias for alias, of in ALIASES.items() if of == canonical)]))


def _places(name: str, base: Path | None, start: str | Path) -> Iterator[Path]:
    """Where the task may be, best guess first."""
    if base:
        for synonym in _synonyms(name):
            yield base / synonym
            yield base / "vtab-1k" / synonym
        if name in TORCHVISION:
            yield base / TORCHVISION[name]
        if base.name in _synonyms(name):
            yield base
    yield from _led(name, start)


def _datasets(base: Path | None) -> Iterator[Path]:
    """Data sets below `base` and below its vtab-1k, or `base` itself."""
    if base is None:
        return
    below = []
    if not is_certain(base):
        inside = [path for parent in (base / "vtab-1k", base) for path in Tree(parent).folders(parent)]
        below = [path for path in inside if layout_of(path)]
    yield from below or ([base] if layout_of(base) else [])


def _unknown(name: str, base: Path | None, looked: list[Path], start: str | Path) -> DataError:
    places = ", ".join(map(shown, looked))
    more = "give the folder that holds the data sets as task.root, or in PETLAS_DATA"
    if name in TORCHVISION:
        more += ", or let it be fetched there with task.download=true"
    if name in VTAB or name in ALIASES or name in TORCHVISION:
        kept = f"{shown(base)} holds no such folder" if base else "no folder of data sets is given"
        return DataError(
            f"task {name!r} is known, but its images are not at hand: {kept}, and none was found at {places}; {more}"
        )
    names = {*_builtin(), *VTAB, *ALIASES, *TORCHVISION, *(path.name for path in _datasets(base))}
    near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}" if near else f"known names are {', '.join(sorted(names))}"
    where = "" if Path(name).is_absolute() else ", where a relative path leads from the working directory"
    if where and Path(start).absolute() != Path().absolute():
        where += " or, of a run, from where it was started (paths_from in its config.yaml)"
    return DataError(f"unknown task {name!r}, not found at {places}{where}; {hint}{'' if base else f'; {more}'}")
