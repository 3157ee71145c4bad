"""Reads the native files of Stanford Cars: `devkit/*.mat` and the images in `cars_train/` and `cars_test/`."""

from pathlib import Path

import numpy as np

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.files import read_mat
from petlas.datasets.readers.listed import listed_task
from petlas.datasets.task import Task

TRAIN, TEST, META = "cars_train_annos.mat", "cars_test_annos_withlabels.mat", "cars_meta.mat"


class Cars(Reader):
    """The labels of test lie in the devkit or beside it (as torchvision's `stanford_cars` has them)."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds the devkit's labels of train."""
        return (path / "devkit" / TRAIN).is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; val is a stratified fifth of train."""
        test = next((file for file in (path / TEST, path / "devkit" / TEST) if file.is_file()), None)
        if test is None:
            raise DataError(
                f"{shown(path / TEST)}: the labels of test are missing; the devkit has them apart, fetch them"
            )
        lists = {"train": _read(path / "devkit" / TRAIN, "cars_train"), "test": _read(test, "cars_test")}
        (named,) = read_mat(path / "devkit" / META, "class_names")
        names = {str(number): str(name) for number, name in enumerate(np.atleast_1d(named), 1)}
        return listed_task(path, "cars", lists, options, names=names)


def _read(file: Path, folder: str) -> ImageList:
    (annotations,) = read_mat(file, "annotations")
    rows = np.atleast_1d(annotations)
    if not {"fname", "class"} <= set(rows.dtype.names or ()):
        raise DataError(f"{shown(file)}: its annotations must name fname and class; those of test come `withlabels`")
    names, labels = (tuple(str(value) for value in rows[field]) for field in ("fname", "class"))
    where = tuple(f"entry {number}" for number in range(1, len(rows) + 1))
    return ImageList(file, tuple(f"{folder}/{name}" for name in names), labels, where)
