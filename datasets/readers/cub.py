"""Reads the native files of CUB-200-2011 and NABirds: lists of images, of their classes, and of their split."""

from pathlib import Path

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.files import read_columns
from petlas.datasets.readers.listed import below, listed_task, readable
from petlas.datasets.task import Task

IMAGES, LABELS, SPLIT, CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"


class Cub(Reader):
    """Lines `ID PATH`, `ID CLASS` and `ID 1` (train) or `ID 0` (test); the names of classes as `CLASS NAME`."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds the list of labels by the images' ids."""
        return (path / LABELS).is_file() and (path / IMAGES).is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; val is a stratified fifth of train. Classes of the list that have no image are left out."""
        images = read_columns(path / IMAGES, "ID PATH")
        labels, split = (_by_id(path / file, form, images) for file, form in ((LABELS, "ID CLASS"), (SPLIT, "ID 0|1")))
        entries = ImageList(path / IMAGES, tuple(name for _, name in images), tuple(labels[key] for key, _ in images))
        entries = below(path, entries, ("images", ""))
        sides = {}
        for part, flag in (("train", "1"), ("test", "0")):
            sides[part] = entries.subset([i for i, (key, _) in enumerate(images) if split[key] == flag])
        if odd := set(split.values()) - {"0", "1"}:
            raise DataError(f"{shown(path / SPLIT)}: an image is 1 (train) or 0 (test), got {sorted(odd)[0]!r}")
        named = path / CLASSES
        names = {key: readable(name) for key, name in read_columns(named, "CLASS NAME")} if named.is_file() else None
        return listed_task(path, "cub", sides, options, names=names)


def _by_id(file: Path, form: str, images: list[tuple[str, str]]) -> dict[str, str]:
    if not file.is_file():
        raise DataError(f"{shown(file)}: the list is missing; {IMAGES}, {LABELS} and {SPLIT} belong together")
    values = dict(read_columns(file, form))
    missing = [key for key, _ in images if key not in values]
    if missing:
        raise DataError(f"{shown(file)}: {len(missing)} images of {IMAGES} are not in it, such as id {missing[0]}")
    return values
