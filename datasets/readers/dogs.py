"""Reads the native files of Stanford Dogs: `train_list.mat`, `test_list.mat` and the images in `Images/`."""

from pathlib import Path

import numpy as np

from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.files import check_lengths, read_mat
from petlas.datasets.readers.listed import below, listed_task
from petlas.datasets.task import Task


class Dogs(Reader):
    """Each list holds the images' paths (`file_list`) and classes (`labels`)."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds both lists."""
        return (path / "train_list.mat").is_file() and (path / "test_list.mat").is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; val is a stratified fifth of train, and the classes are named as their folders."""
        lists = {part: below(path, _read(path / f"{part}_list.mat"), ("Images", "")) for part in ("train", "test")}
        return listed_task(path, "dogs", lists, options)


def _read(file: Path) -> ImageList:
    images, labels = (np.atleast_1d(each) for each in read_mat(file, "file_list", "labels"))
    check_lengths(file, images=list(images), labels=list(labels))
    where = tuple(f"entry {number}" for number in range(1, len(images) + 1))
    return ImageList(file, tuple(map(str, images)), tuple(map(str, labels)), where)
