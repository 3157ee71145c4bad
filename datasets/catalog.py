"""Finds tasks by name: the built-in digits, VTAB-1k data sets below a root folder, and plain image folders."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from petlas.datasets.digits import open_digits
from petlas.datasets.folder import has_splits, is_image_folder, open_folder, subfolders
from petlas.datasets.names import ALIASES, VTAB
from petlas.datasets.task import DataError, Task
from petlas.datasets.vtab import is_vtab, open_vtab

BUILTIN = "digits"


@dataclass(frozen=True)
class TaskInfo:
    """One line of `petlas datasets`, in plain types; `fault` is what is wrong with a task that was found."""

    name: str
    layout: str  # "built-in", "vtab" or "folder"
    found: bool
    path: str | None = None
    fault: str | None = None
    num_classes: int | None = None
    counts: dict[str, int] = field(default_factory=dict)


def open_task(name: str, root: str | Path | None = None, seed: int = 0) -> Task:
    """The task `name`: `digits`, a data set's folder name below `root`, or a path to its folder.

    `root` (default: the environment's PETLAS_DATA) may hold `vtab-1k`, be it, or be the data set's own folder. `seed`
    decides which images of a plain folder are set aside where it has no val or no test folder.
    """
    if name == BUILTIN:
        return open_digits()
    base = _root(root)
    looked = list(_places(name, base))
    try:
        # A folder of neither layout comes last: its classes may hold their images deeper down, or its fault is told.
        usable = [path for path in looked if _layout(path)] or [path for path in looked if path.is_dir()]
        if not name.strip() or not usable:
            raise _unknown(name, base, looked)
        return open_vtab(usable[0]) if is_vtab(usable[0]) else open_folder(usable[0], seed)
    except OSError as error:
        raise DataError(f"task {name!r} cannot be read ({error}); check the folder and its permissions") from error


def list_tasks(root: str | Path | None = None) -> list[TaskInfo]:
    """Every task that is known or found below `root`; the found ones are opened, which checks them."""
    base = _root(root)
    found = {path.name: path for path in _datasets(base)}
    infos = [_info(BUILTIN, "built-in", None)]
    for name in VTAB:
        path = next((found.pop(n) for n in _synonyms(name) if n in found), None)
        infos.append(_info(name, _layout(path) or "vtab", path) if path else TaskInfo(name, "vtab", found=False))
    return infos + [_info(name, _layout(path) or "folder", path) for name, path in sorted(found.items())]


def _info(name: str, layout: str, path: Path | None) -> TaskInfo:
    where = str(path) if path else None
    try:
        task = open_task(where or name)
    except DataError as error:
        return TaskInfo(name, layout, found=True, path=where, fault=str(error))
    counts = {split: len(task.splits[split]) for split in task.splits}
    return TaskInfo(name, layout, found=True, path=where, num_classes=task.num_classes, counts=counts)


def _root(root: str | Path | None) -> Path | None:
    chosen = root or os.environ.get("PETLAS_DATA")
    if not chosen:
        return None
    base = Path(chosen).expanduser().absolute()
    if not base.is_dir():
        origin = "the root folder" if root else "PETLAS_DATA's folder"
        raise DataError(f"{base}: {origin} does not exist; give the folder that holds the data sets")
    return base


def _layout(folder: Path) -> str | None:
    if is_vtab(folder):
        return "vtab"
    return "folder" if is_image_folder(folder) else None


def _synonyms(name: str) -> list[str]:
    """The name, and what other copies call the same data set."""
    canonical = ALIASES.get(name, name)
    return list(dict.fromkeys([name, canonical, *(alias for alias, of in ALIASES.items() if of == canonical)]))


def _places(name: str, base: Path | None) -> Iterator[Path]:
    """Where the task may be, best guess first."""
    if base:
        for synonym in _synonyms(name):
            yield base / synonym
            yield base / "vtab-1k" / synonym
        if base.name in _synonyms(name):
            yield base
    yield Path(name).expanduser().absolute()


def _datasets(base: Path | None) -> Iterator[Path]:
    """Data sets below `base` and below its vtab-1k, or `base` itself."""
    if base is None:
        return
    below = []
    if not is_vtab(base) and not has_splits(base):
        below = [path for parent in (base / "vtab-1k", base) for path in subfolders(parent) if _layout(path)]
    yield from below or ([base] if _layout(base) else [])


def _unknown(name: str, base: Path | None, looked: list[Path]) -> DataError:
    names = {BUILTIN, *VTAB, *ALIASES, *(path.name for path in _datasets(base))}
    near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.5)
    places = ", ".join(str(path) for path in dict.fromkeys(looked))
    hint = f"did you mean {' or '.join(near)}" if near else f"known names are {', '.join(sorted(names))}"
    more = "" if base else "; give the folder that holds the data sets as root or in PETLAS_DATA"
    return DataError(f"unknown task {name!r}, not found at {places}; {hint}{more}")
