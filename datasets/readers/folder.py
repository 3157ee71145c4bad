"""Reads a plain image folder: CLASS/ folders of images, in train/, val/ and test/ folders or on their own."""

import re
import unicodedata
from pathlib import Path

import numpy as np

from petlas.datasets.errors import DataError, shown, some
from petlas.datasets.images import SUFFIXES
from petlas.datasets.readers import is_certain
from petlas.datasets.readers.base import Part, Reader, ReadOptions, file_task, set_aside
from petlas.datasets.task import Task
from petlas.datasets.tree import Tree

PARTS = ("train", "val", "test")

# How else the folders of splits are called, in any case and with `data`, `set` or `split` behind.
SPELLINGS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val", "development": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip

_UNDERSTOOD = "train, val and test, or training, validation, valid, dev, testing, train_data and the like"

Found = dict[str, list[str]]  # each class's images, as paths relative to the root


class ClassFolders(Reader):
    """Class folders, whose images may lie deeper; where test or val is missing, it is a stratified fifth of train."""

    def recognises(self, path: Path) -> bool:
        """Whether it has folders of splits that hold class folders, or class folders with images right in them."""
        tree = Tree(path)
        return _has_splits(tree) or any(tree.has_direct_image(folder) for folder in tree.folders(path))

    def certain(self, path: Path) -> bool:
        """Where it has folders of splits: class folders may be data sets themselves."""
        return _has_splits(Tree(path))

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task, its classes those of train."""
        tree = Tree(path)
        folders = _parts(tree)
        found = {name: _find(tree, folder) for name, folder in folders.items()}
        if not any(found["train"].values()):
            raise DataError(
                f"{shown(folders['train'])}: found no class folders with images; put each class's images in a folder"
            )
        _check_classes(folders, found)
        classes = tuple(found["train"])
        parts = {name: _label(images, classes) for name, images in found.items()}
        was_split = len(parts) < len(PARTS)
        for missing in ("test", "val"):
            if missing not in parts:
                parts["train"], parts[missing] = set_aside(parts["train"], options.split_seed)
            if not parts[missing].names:
                raise DataError(
                    f"{shown(path)}: too few images to set {missing} aside: of those left to learn from, every class "
                    f"has only one, and a class needs three images to be in train, val and test; add images or a "
                    f"{missing} folder"
                )
        parts["trainval"] = parts["train"] + parts["val"]
        return file_task(
            path, "folder", "single_label", classes, parts, options, notes=tree.notes(), was_split=was_split
        )


def split_of(name: str) -> str | None:
    """Which split a folder of that name is of, or None."""
    word = re.sub(r"[-_ .]*(data|dataset|set|split)$", "", name.lower())
    return SPELLINGS.get(word)


def _has_classes(tree: Tree, folder: Path) -> bool:
    return any(tree.has_image(path) for path in tree.folders(folder))


def _has_splits(tree: Tree) -> bool:
    """Whether a folder of a split holds class folders; a `train` with images right in it is a class called train."""
    return any(split_of(path.name) and _has_classes(tree, path) for path in tree.folders(tree.root))


def _parts(tree: Tree) -> dict[str, Path]:
    """The folder of each split that has one; what else holds images would be ignored unseen, so it is refused."""
    folders = tree.folders(tree.root)
    tree.leave_loose(tree.root)
    if not _has_splits(tree):
        _check_unsplit(tree, folders)
        return {"train": tree.root}
    parts: dict[str, Path] = {}
    for path in folders:
        part = split_of(path.name)
        if part is None:
            if tree.has_image(path):
                raise DataError(
                    f"{shown(path)}: next to folders of splits there may be no {path.name!r} with images; understood "
                    f"are {_UNDERSTOOD}; rename the folder or move it away"
                )
        elif part in parts:
            raise DataError(
                f"{shown(path)}: {parts[part].name!r} is {part}, too; put the images of both into one folder"
            )
        elif not _has_classes(tree, path):
            raise _no_classes(path, path.name)
        else:
            parts[part] = path
            tree.leave_loose(path)
    if "train" not in parts:
        names = ", ".join(shown(path.name) for path in parts.values())
        raise DataError(f"{shown(tree.root)}: next to {names} there must be train; understood are {_UNDERSTOOD}")
    return {part: parts[part] for part in PARTS if part in parts}


def _no_classes(folder: Path, names: str) -> DataError:
    return DataError(f"{shown(folder)}: {names} must hold class folders; put each class's images in a folder")


def _check_unsplit(tree: Tree, folders: list[Path]) -> None:
    """The folders are to be classes: not splits without classes, not data sets, not splits by names unknown here."""
    filled = [path for path in folders if tree.has_image(path)]
    if filled and all(split_of(path.name) for path in filled):
        raise _no_classes(tree.root, ", ".join(shown(path.name) for path in filled))
    for path in folders:
        if is_certain(path):
            raise DataError(
                f"{shown(tree.root)}: it holds data sets such as {shown(path.name)}, not classes; choose one of them"
            )
    if len(filled) < 2 or any(tree.has_direct_image(path) for path in filled):
        return
    below = [{path.name for path in tree.folders(folder) if tree.has_image(path)} for folder in filled]
    if len(shared := set.intersection(*below)) > 1:
        raise DataError(
            f"{shown(tree.root)}: {some([path.name for path in filled])} all hold folders {some(sorted(shared))}, so "
            f"they may be splits, but understood are {_UNDERSTOOD}; rename them, or, where they are classes, put "
            "their images right into them"
        )


def _find(tree: Tree, folder: Path) -> Found:
    """Each class's images; those of a split may be none where another split has some."""
    return {
        path.name: sorted(image.relative_to(tree.root).as_posix() for image in tree.images(path))
        for path in tree.folders(folder)
    }


def _check_classes(folders: dict[str, Path], found: dict[str, Found]) -> None:
    """Train has every class, if only as an empty folder; a class elsewhere may be one of train's, spelt otherwise."""
    train = found["train"]
    for part, classes in found.items():
        for name in classes.keys() - train.keys():
            alike = [other for other in train if _plain(other) == _plain(name)]
            meant = f", which is spelt {alike[0]!a} there and {name!a} here" if alike else ""
            raise DataError(
                f"{shown(folders[part])}: the class folders must be those of train, but it has the extra class "
                f"{name!r}{meant}; make the class folders agree, or make an empty folder of that name in "
                f"{shown(folders['train'].name)} if there is nothing to learn it from"
            )
    for name in train:
        if not any(classes.get(name) for classes in found.values()):
            raise DataError(
                f"{shown(folders['train'] / name)}: the class folder holds no image ({', '.join(sorted(SUFFIXES))}); "
                "add images or remove the folder"
            )


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _label(found: Found, classes: tuple[str, ...]) -> Part:
    names = [(image, label) for label, name in enumerate(classes) for image in found.get(name, ())]
    targets = np.fromiter((label for _, label in names), dtype=np.int64, count=len(names))
    return Part(tuple(image for image, _ in names), targets)
