"""Reads the native files of Oxford Flowers 102: `imagelabels.mat`, `setid.mat` and the images in `jpg/`."""

from pathlib import Path

import numpy as np

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.files import read_mat
from petlas.datasets.readers.listed import listed_task
from petlas.datasets.task import Task

_IDS = {"train": "trnid", "val": "valid", "test": "tstid"}


class Flowers(Reader):
    """Labels and splits by the numbers of the images, which count from 1; also torchvision's `flowers-102`."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds both files."""
        return (path / "imagelabels.mat").is_file() and (path / "setid.mat").is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task, split as its authors did."""
        file = path / "setid.mat"
        (labels,) = read_mat(path / "imagelabels.mat", "labels")
        ids = {part: np.atleast_1d(each) for part, each in zip(_IDS, read_mat(file, *_IDS.values()), strict=True)}
        lists = {}
        for part, numbers in ids.items():
            wrong = [number for number in numbers if not 1 <= number <= len(labels)]
            if wrong:
                raise DataError(f"{shown(file)}: {_IDS[part]} holds {wrong[0]}, and there are labels of {len(labels)}")
            lists[part] = ImageList(
                file,
                tuple(f"jpg/image_{number:05}.jpg" for number in numbers),
                tuple(str(labels[number - 1]) for number in numbers),
                tuple(f"{_IDS[part]} {place}" for place in range(1, len(numbers) + 1)),
            )
        return listed_task(path, "flowers", lists, options)
