"""Reads images of several labels each: text lists of lines `image label,label` next to the classes' names."""

import difflib
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
from petlas.datasets.readers.base import Part, Reader, ReadOptions, file_task, set_aside
from petlas.datasets.task import Task

PARTS = ("train", "val", "test")
CLASSES = "classes.txt"


class ImageLabelList(Reader):
    """Lists `train.txt` and, where there are, `val.txt` and `test.txt`, with the names of the classes in classes.txt.

    A label is a class's name, or its place in classes.txt counted from 0 where all labels are such numbers. A line
    with a tab is parted there, so that names may hold blanks. An image alone on its line has no label.
    """

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds both a list to learn from and the names of the classes."""
        return (path / "train.txt").is_file() and (path / CLASSES).is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task, with its lists, labels and the existence of its images checked."""
        classes = read_classes(path / CLASSES)
        lists = {
            part: read_list(path / f"{part}.txt", "IMAGE LABEL,LABEL", unlabelled=True)
            for part in PARTS
            if (path / f"{part}.txt").is_file()
        }
        for entries in lists.values():
            check_duplicates(entries)
            check_existence(path, entries)
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            if first in lists and second in lists:
                check_disjoint(lists[first], lists[second])
        numbers = _are_numbers(lists, classes)
        parts = {name: _part(entries, classes, numbers) for name, entries in lists.items()}
        notes = _notes(parts)
        was_split = False
        for missing in ("test", "val"):
            if missing not in parts:
                parts["train"], parts[missing] = set_aside(parts["train"], options.split_seed)
                was_split = True
            if not parts[missing].names or not parts["train"].names:
                raise DataError(f"{shown(path)}: too few images to set {missing} aside; add images or a {missing}.txt")
        parts["trainval"] = parts["train"] + parts["val"]
        return file_task(
            path, "image_label_list", "multi_label", classes, parts, options, notes=notes, was_split=was_split
        )


def _split(labels: str) -> list[str]:
    return [label.strip() for label in labels.split(",")] if labels else []


def _are_numbers(lists: dict[str, ImageList], classes: tuple[str, ...]) -> bool:
    """Whether labels are places in classes.txt: one way for all lists, names first."""
    used = {label for entries in lists.values() for labels in entries.labels for label in _split(labels)}
    return not used <= set(classes) and all(label.isascii() and label.isdigit() for label in used)


def _part(entries: ImageList, classes: tuple[str, ...], numbers: bool) -> Part:
    position = {str(index) if numbers else name: index for index, name in enumerate(classes)}
    targets = np.zeros((len(entries.names), len(classes)), dtype=bool)
    for row, labels in enumerate(entries.labels):
        for label in _split(labels):
            if label not in position:
                raise entries.fault(row, _unknown(label, classes, numbers))
            targets[row, position[label]] = True
    return Part(entries.names, targets, entries.places())


def _unknown(label: str, classes: tuple[str, ...], numbers: bool) -> str:
    if numbers:
        return f"label {label} is out of range 0..{len(classes) - 1}; correct it, or name every class in {CLASSES}"
    near = difflib.get_close_matches(label, classes, n=1)
    hint = f" (did you mean {shown(near[0])}?)" if near else ""
    return f"label {label!r} is not in {CLASSES}{hint}; correct it, or add its name there"


def _notes(parts: dict[str, Part]) -> tuple[str, ...]:
    counts = np.concatenate([part.targets.sum(axis=1) for part in parts.values()])
    notes = []
    if not counts.all():
        notes.append(f"{int((counts == 0).sum())} of {len(counts)} images have no label")
    if counts.max() <= 1:
        notes.append("no image has more than one label; they are still learned as labels that may go together")
    return tuple(notes)
