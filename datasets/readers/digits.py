"""The task `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.sources import ArraySource
from petlas.datasets.split import stratified_split
from petlas.datasets.task import Task, View

_TEST, _VAL = 797, 200


class Digits(Reader):
    """800 training, 200 validation and 797 test images, stratified and always the same."""

    builtin = ("digits",)

    def recognises(self, path: Path) -> bool:
        """By the name alone."""
        return str(path) in self.builtin

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The digits, whatever the options say."""
        table = _table()
        images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        labels = table[:, -1].astype(np.int64)
        trainval, test = stratified_split(labels, _TEST, seed=0)
        whole = View.whole(ArraySource(images[trainval]), labels[trainval])
        train, val = (whole.subset(part) for part in stratified_split(labels[trainval], _VAL, seed=0))
        judged = View.whole(ArraySource(images[test]), labels[test])
        views = {"train": train, "val": val, "trainval": whole, "test": judged}
        return Task("digits", tuple("0123456789"), "single_label", views, "digits")


@cache
def _table() -> NDArray[np.float64]:
    """The pixels and the label of each digit, (N, 65), which nobody changes.

    Read from scikit-learn's own file: to import all of it takes longer than to train on the digits for an epoch.
    """
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True))
