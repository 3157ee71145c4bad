"""Reads a data set in the community's VTAB-1k layout: four text lists next to a folder of images."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from petlas.datasets.names import class_names
from petlas.datasets.sources import FileSource
from petlas.datasets.task import DataError, Split, Task

LISTS = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}


@dataclass(frozen=True)
class _List:
    """One list file; entry i stands in line i + 1."""

    file: str
    names: tuple[str, ...]
    labels: tuple[int, ...]

    def fault(self, index: int, text: str) -> DataError:
        return DataError(f"{self.file} line {index + 1}: {text}")


def is_vtab(folder: Path) -> bool:
    """Whether the folder holds any of the layout's lists."""
    return any((folder / file).is_file() for file in LISTS.values() if file != "test.txt")


def open_vtab(folder: Path) -> Task:
    """The task in `folder`, with its lists, labels and the existence of its images checked."""
    lists = {split: _read_list(folder, file) for split, file in LISTS.items()}
    classes = _classes(folder, lists["trainval"])
    for entries in lists.values():
        _check_labels(entries, len(classes))
        _check_duplicates(entries)
    for first, second in (("train", "val"), ("train", "test"), ("val", "test"), ("trainval", "test")):
        _check_disjoint(lists[first], lists[second])
    for part in ("train", "val"):
        _check_same_labels(lists[part], lists["trainval"])
    for entries in lists.values():
        _check_existence(folder, entries)
    splits = {
        split: Split(FileSource(folder, entries.names, entries.file), np.array(entries.labels, dtype=np.int64))
        for split, entries in lists.items()
    }
    return Task(folder.name, classes, splits)


def _read_list(folder: Path, file: str) -> _List:
    path = folder / file
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: the list is missing; a VTAB-1k folder needs {', '.join(LISTS.values())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error}); write it again as UTF-8 text") from error
    if lines == [""]:
        raise DataError(f"{path}: the list is empty; a split needs at least one line `IMAGE LABEL`")
    names, labels = zip(*(_read_line(path, number, line) for number, line in enumerate(lines, 1)), strict=True)
    return _List(str(path), names, labels)


def _read_line(path: Path, number: int, line: str) -> tuple[str, int]:
    parts = line.strip().rsplit(None, 1)  # at the last space: a path may hold spaces
    if len(parts) != 2:
        raise DataError(f"{path} line {number}: expected `IMAGE LABEL`, got {line.strip()!r}; correct the line")
    name, label = parts
    digits = label.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise DataError(f"{path} line {number}: label {label!r} is not a whole number; number the classes from 0")
    return posixpath.normpath(name), int(label)


def _classes(folder: Path, trainval: _List) -> tuple[str, ...]:
    """From classes.txt, else the known names, else one class for each label 0, 1, … up to the first unused one."""
    path = folder / "classes.txt"
    if path.is_file():
        try:
            names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the class names cannot be read ({error}); write them as UTF-8 text") from error
        for number, name in enumerate(names, 1):
            if not name or name in names[: number - 1]:
                raise DataError(f"{path} line {number}: {name!r} is empty or a repeat; give one new name per line")
        return names
    if known := class_names(folder.name):
        return known
    used = set(trainval.labels)
    count = next(label for label in range(len(used) + 1) if label not in used)
    return tuple(f"class {label}" for label in range(max(1, count)))


def _check_labels(entries: _List, classes: int) -> None:
    for index, label in enumerate(entries.labels):
        if not 0 <= label < classes:
            raise entries.fault(
                index,
                f"label {label} is out of range 0..{classes - 1}; correct the label, or name every class in "
                "classes.txt, one per line",
            )


def _check_duplicates(entries: _List) -> None:
    seen: dict[str, int] = {}
    for index, name in enumerate(entries.names):
        if (first := seen.setdefault(name, index)) != index:
            raise entries.fault(index, f"{name} is already in line {first + 1}; remove one of the two")


def _check_disjoint(first: _List, second: _List) -> None:
    lines = {name: index for index, name in enumerate(first.names)}
    for index, name in enumerate(second.names):
        if name in lines:
            raise second.fault(
                index,
                f"{name} is also in {Path(first.file).name} line {lines[name] + 1}; an image may not be learned from "
                "and judged on: remove one of the two",
            )


def _check_same_labels(part: _List, trainval: _List) -> None:
    lines = {name: index for index, name in enumerate(trainval.names)}
    for index, name in enumerate(part.names):
        other = lines.get(name, -1)
        if other >= 0 and trainval.labels[other] != part.labels[index]:
            raise part.fault(
                index,
                f"{name} has label {part.labels[index]} here and {trainval.labels[other]} in "
                f"{Path(trainval.file).name} line {other + 1}; give it one label",
            )


def _check_existence(folder: Path, entries: _List) -> None:
    present = _listing(folder, {posixpath.dirname(name) for name in entries.names})
    for index, name in enumerate(entries.names):
        parent, base = posixpath.split(name)
        # The second look helps where upper and lower case are the same to the file system.
        if base not in present[parent] and not (folder / name).is_file():
            raise entries.fault(index, f"image {name} does not exist in {folder}; restore it or remove the line")


def _listing(folder: Path, parents: Iterable[str]) -> dict[str, set[str]]:
    """The names in each subfolder: far cheaper than asking for every image, above all on a network drive."""
    present: dict[str, set[str]] = defaultdict(set)
    for parent in parents:
        if (folder / parent).is_dir():
            present[parent] = set(os.listdir(folder / parent))
    return present
