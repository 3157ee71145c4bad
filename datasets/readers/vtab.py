"""Reads a data set in the community's VTAB-1k layout: four text lists next to a folder of images."""

from pathlib import Path

import numpy as np

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import (
    ImageList,
    check_disjoint,
    check_duplicates,
    check_existence,
    read_classes,
    read_list,
)
from petlas.datasets.names import class_names
from petlas.datasets.readers.base import PUBLISHED_OVERLAP, Part, Reader, ReadOptions, file_task
from petlas.datasets.task import Task

LISTS = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}


class VTAB1k(Reader):
    """Lists `train800.txt`, `val200.txt`, `train800val200.txt` and `test.txt` of lines `IMAGE LABEL`."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds any of the lists that no other layout has."""
        return any((path / file).is_file() for file in LISTS.values() if file != "test.txt")

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task, with its lists, labels and the existence of its images checked."""
        lists = {view: _read(path / file) for view, file in LISTS.items()}
        labels = {view: _labels(entries) for view, entries in lists.items()}
        classes = _classes(path, sorted({label for values in labels.values() for label in values}))
        for view, entries in lists.items():
            _check_labels(entries, labels[view], len(classes))
            check_duplicates(entries)
        for first, second in (("train", "val"), ("train", "test"), ("val", "test"), ("trainval", "test")):
            check_disjoint(lists[first], lists[second])
        for part in ("train", "val"):
            _check_same_labels(lists[part], lists["trainval"])
        for entries in lists.values():
            check_existence(path, entries)
        parts = {
            view: Part(entries.names, np.array(labels[view], dtype=np.int64), entries.places())
            for view, entries in lists.items()
        }
        return file_task(
            path,
            "vtab",
            "single_label",
            classes,
            parts,
            options,
            notes=_other_images(lists),
            tolerated_overlap=PUBLISHED_OVERLAP,
        )


def _read(file: Path) -> ImageList:
    if not file.is_file():
        needed = ", ".join(LISTS.values())
        raise DataError(f"{shown(file)}: the list is missing; a VTAB-1k folder needs {needed}")
    return read_list(file)


def _labels(entries: ImageList) -> list[int]:
    for index, label in enumerate(entries.labels):
        digits = label.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise entries.fault(index, f"label {label!r} is not a whole number; number the classes from 0")
    return [int(label) for label in entries.labels]


def _classes(folder: Path, used: list[int]) -> tuple[str, ...]:
    """From classes.txt, else the known names, else one class for each label up to the last of any list.

    A last label so high that most classes would have no image at all is taken for a fault.
    """
    named = read_classes(folder / "classes.txt") if (folder / "classes.txt").is_file() else class_names(folder.name)
    if used[0] == 1 and (named is None or used[-1] == len(named)):
        raise DataError(
            f"{shown(folder)}: the labels of all lists together are 1..{used[-1]}, and none is 0; number the classes "
            "from 0, or name the classes in classes.txt, the one of label 0 first"
        )
    if named:
        return named
    likely = max((label for place, label in enumerate(used) if 0 <= label <= 2 * place + 1), default=0)
    return tuple(f"class {label}" for label in range(likely + 1))


def _check_labels(entries: ImageList, labels: list[int], classes: int) -> None:
    for index, label in enumerate(labels):
        if not 0 <= label < classes:
            raise entries.fault(
                index,
                f"label {label} is out of range 0..{classes - 1}; correct the label, or name every class in "
                "classes.txt, one per line",
            )


def _check_same_labels(part: ImageList, trainval: ImageList) -> None:
    lines = {name: index for index, name in enumerate(trainval.names)}
    for index, name in enumerate(part.names):
        other = lines.get(name, -1)
        if other >= 0 and int(trainval.labels[other]) != int(part.labels[index]):
            raise part.fault(
                index,
                f"{shown(name)} has label {part.labels[index]} here and {trainval.labels[other]} in "
                f"{trainval.file.name} line {other + 1}; give it one label",
            )


def _other_images(lists: dict[str, ImageList]) -> tuple[str, ...]:
    """Where the list of both names other images than the lists of each."""
    each, both = {*lists["train"].names, *lists["val"].names}, set(lists["trainval"].names)
    if each == both:
        return ()
    names = f"{LISTS['train']} and {LISTS['val']}"
    return (f"{LISTS['trainval']} lacks {len(each - both)} images of {names} and has {len(both - each)} others",)
