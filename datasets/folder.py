"""Reads a plain image folder: CLASS/ folders of images, in train/, val/ and test/ folders or on their own."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from petlas.datasets.images import SUFFIXES
from petlas.datasets.sources import FileSource
from petlas.datasets.split import stratified_split
from petlas.datasets.task import DataError, Split, Task
from petlas.datasets.vtab import is_vtab

PARTS = ("train", "val", "test")
SHARE = 0.2  # of the training images, for a split that has no folder

Labelled = dict[str, int]  # an image's path relative to the root, and its label


def is_image_folder(folder: Path) -> bool:
    """Whether the folder has train/CLASS/ folders with images, or CLASS/ folders with images right in them."""
    return has_splits(folder) or any(_is_image(path) for sub in subfolders(folder) for path in sub.iterdir())


def open_folder(folder: Path, seed: int = 0) -> Task:
    """The task in `folder`; a missing test, then a missing val, is a stratified fifth of train, drawn by `seed`."""
    parts = _parts(folder)
    images = {name: _read(folder, path) for name, path in parts.items()}
    classes = tuple(images["train"])
    if not classes:
        raise DataError(f"{parts['train']}: found no class folders with images; put each class's images in a folder")
    for name, path in parts.items():
        _check_classes(path, images[name], classes)
    labelled = {name: _label(found, classes) for name, found in images.items()}
    for missing in ("test", "val"):
        if missing not in labelled:
            labelled["train"], labelled[missing] = _set_aside(labelled["train"], seed)
        if not labelled[missing]:
            raise DataError(
                f"{folder}: too few images to set {missing} aside, every class has only one; add images or a "
                f"{missing} folder"
            )
    labelled["trainval"] = labelled["train"] | labelled["val"]
    splits = {
        name: Split(FileSource(folder, tuple(found)), np.fromiter(found.values(), dtype=np.int64, count=len(found)))
        for name, found in labelled.items()
    }
    return Task(folder.name, classes, splits)


def has_splits(folder: Path) -> bool:
    """Whether train/ holds class folders; a train/ with images right in it is a class called train."""
    return any(_has_image(path) for path in subfolders(folder / "train"))


def subfolders(folder: Path) -> list[Path]:
    """The folder's visible subfolders, in order."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each split that has one; what else holds images would be ignored unseen, so it is refused."""
    if has_splits(folder):
        for path in subfolders(folder):
            if path.name not in PARTS and _has_image(path):
                raise DataError(
                    f"{path}: next to train there may be val and test, not {path.name!r} with images; rename the "
                    "folder or move it away"
                )
        return {name: folder / name for name in PARTS if (folder / name).is_dir()}
    found = [path.name for path in subfolders(folder)]
    if found and set(found) <= set(PARTS):
        raise DataError(f"{folder}: {', '.join(found)} must hold class folders; put each class's images in a folder")
    for path in subfolders(folder):
        if is_vtab(path) or has_splits(path):
            raise DataError(f"{folder}: it holds data sets such as {path.name}, not classes; choose one of them")
    return {"train": folder}


def _images(folder: Path) -> Iterator[Path]:
    """The images at any depth."""
    for parent, _, files in os.walk(folder):
        yield from (path for file in files if _is_image(path := Path(parent, file)))


def _is_image(path: Path) -> bool:
    """By its name; hidden files are none, among them the `._x.jpg` that macOS leaves."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _has_image(folder: Path) -> bool:
    return any(True for _ in _images(folder))


def _read(root: Path, folder: Path) -> dict[str, list[str]]:
    """Each class's images, as paths relative to `root`."""
    found = {
        path.name: sorted(image.relative_to(root).as_posix() for image in _images(path)) for path in subfolders(folder)
    }
    for name, images in found.items():
        if not images and any(found.values()):
            raise DataError(
                f"{folder / name}: the class folder holds no image ({', '.join(sorted(SUFFIXES))}); add images or "
                "remove the folder"
            )
    return {name: images for name, images in found.items() if images}


def _check_classes(folder: Path, found: Mapping[str, list[str]], classes: tuple[str, ...]) -> None:
    for what, names in (("has the extra", set(found) - set(classes)), ("lacks the", set(classes) - set(found))):
        if names:
            raise DataError(
                f"{folder}: the class folders must be those of train, but it {what} class {min(names)!r}; make the "
                "class folders agree"
            )


def _label(found: Mapping[str, list[str]], classes: tuple[str, ...]) -> Labelled:
    return {image: label for label, name in enumerate(classes) for image in found[name]}


def _set_aside(labelled: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    names = list(labelled)
    labels = np.array(list(labelled.values()), dtype=np.int64)
    kept, held = stratified_split(labels, round(SHARE * len(labels)), seed)
    return {names[i]: labelled[names[i]] for i in kept}, {names[i]: labelled[names[i]] for i in held}
