"""What readers of one label an image share: repeated entries, one numbering over all splits, where the images lie."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from petlas.datasets.errors import DataError, shown, some
from petlas.datasets.lists import ImageList, check_disjoint, check_existence
from petlas.datasets.readers.base import PUBLISHED_OVERLAP, Part, ReadOptions, file_task, set_aside
from petlas.datasets.task import Task

PARTS = ("train", "val", "test")
_LOOKED_FOR = 20
_FEW_SHOT = "few-shot: val only chooses between designs; what learns, learns from train alone, in retraining, too"


def listed_task(
    root: Path,
    layout: str,
    lists: Mapping[str, ImageList],
    options: ReadOptions,
    *,
    names: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    published: bool = True,
    few_shot: bool = False,
) -> Task:
    """The task of lists of images below a folder: checked, numbered once for all splits, what is missing set aside.

    An entry that is there again with the same label counts once, and is noted. The classes are those of the labels of
    all lists together: numbered for each list apart, a class that one of them lacks would shift the others.

    Args:
        root: The data's folder, which also names the task.
        layout: The reader's name.
        lists: Of `train` and, where there are, `val` and `test`; their images relative to the root.
        options: What the user says.
        names: Of the classes, by label; else the images' folders, or the labels name them.
        notes: What the reader left out or found odd.
        published: Whether others use these very lists, so that a few repeats between splits must stay.
        few_shot: Whether val only chooses, and retraining, too, learns from the few images of train alone.

    Raises:
        DataError: When the lists are at fault.
    """
    once = {part: _once(lists[part]) for part in PARTS if part in lists}
    for first, second in combinations(once.values(), 2):
        check_disjoint(first, second)
    for part in once.values():
        check_existence(root, part)
    labels = _in_order({label for part in once.values() for label in part.labels})
    classes = tuple(_unique(labels, names or _folder_names(list(once.values())) or _plain_names(labels)))
    parts = {part: _part(entries, labels) for part, entries in once.items()}
    was_split = len(parts) < len(PARTS)
    for missing in ("test", "val"):
        if missing not in parts:
            parts["train"], parts[missing] = set_aside(parts["train"], options.split_seed)
        if not parts[missing].names or not parts["train"].names:
            raise DataError(
                f"{shown(root)}: too few images to set {missing} aside: a class needs three images to be in train, val "
                f"and test; add images, or a list of {missing}"
            )
    parts["trainval"] = parts["train"] if few_shot else parts["train"] + parts["val"]
    notes = (*notes, *_repeats(lists, once), *([_FEW_SHOT] if few_shot else []))
    return file_task(
        root,
        layout,
        "single_label",
        classes,
        parts,
        options,
        notes=notes,
        was_split=was_split,
        tolerated_overlap=PUBLISHED_OVERLAP if published else 0.0,
    )


def below(root: Path, entries: ImageList, folders: Sequence[str]) -> ImageList:
    """The list with its images named from the root: they lie in the first of these folders that holds some of them.

    Args:
        root: The data's folder.
        entries: A list that names its images within one of its subfolders.
        folders: Which, best guess first; "" is the root itself.
    """
    some_names = entries.names[:_LOOKED_FOR]
    held = (each for each in folders if any((root / each / name).is_file() for name in some_names))
    folder = next(held, folders[0])
    return replace(entries, names=tuple(f"{folder}/{name}" if folder else name for name in entries.names))


def readable(name: str) -> str:
    """A class's name from that of its folder: `001.Black_footed_Albatross`, `n02085620-Chihuahua`."""
    return re.sub(r"^(\d+\.|n\d{8}-)", "", name).replace("_", " ").strip() or name


def _once(entries: ImageList) -> ImageList:
    first: dict[str, int] = {}
    for index, name in enumerate(entries.names):
        before = first.setdefault(name, index)
        if entries.labels[before] != entries.labels[index]:
            raise entries.fault(
                index,
                f"{shown(name)} has label {shown(entries.labels[index])!r} here and "
                f"{shown(entries.labels[before])!r} in {entries.at(before)}; give it one label",
            )
    return entries if len(first) == len(entries.names) else entries.subset(list(first.values()))


def _repeats(lists: Mapping[str, ImageList], once: Mapping[str, ImageList]) -> tuple[str, ...]:
    notes = []
    for part, entries in once.items():
        if more := len(lists[part].names) - len(entries.names):
            again = [name for name, count in Counter(lists[part].names).items() if count > 1]
            notes.append(f"{shown(entries.file.name)}: {more} repeated entries are left out ({some(again)})")
    return tuple(notes)


def _in_order(labels: set[str]) -> list[str]:
    """By number where all are whole numbers, else as text."""
    if all(re.fullmatch(r"-?\d+", label, re.ASCII) for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def _plain_names(labels: Sequence[str]) -> dict[str, str]:
    numbers = all(label.lstrip("-").isdigit() for label in labels)
    return {label: f"class {label}" if numbers else label for label in labels}


def _folder_names(lists: Sequence[ImageList]) -> dict[str, str] | None:
    """The names of the folders that the images lie in, where each class has just one of its own."""
    folders: dict[str, str] = {}
    for entries in lists:
        for image, label in zip(entries.names, entries.labels, strict=True):
            folder = image.rpartition("/")[0]
            if folders.setdefault(label, folder) != folder:
                return None
    last = {label: readable(folder.rpartition("/")[2]) for label, folder in folders.items()}
    return last if all(last.values()) and len(set(last.values())) == len(last) > 1 else None


def _unique(labels: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """A name for each label, with the label behind it where several share the name."""
    wanted = [names.get(label, label) for label in labels]
    return [f"{name} ({label})" if wanted.count(name) > 1 else name for label, name in zip(labels, wanted, strict=True)]


def _part(entries: ImageList, labels: Sequence[str]) -> Part:
    target = {label: index for index, label in enumerate(labels)}
    targets = np.array([target[label] for label in entries.labels], dtype=np.int64)
    return Part(entries.names, targets, entries.places())
