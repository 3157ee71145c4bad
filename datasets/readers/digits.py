"""The task `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

from pathlib import Path

import numpy as np

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
        from sklearn.datasets import load_digits  # slow to import, and needed here only

        grey, target = load_digits(return_X_y=True)
        images = np.rint(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        labels = target.astype(np.int64)
        trainval, test = stratified_split(labels, _TEST, seed=0)
        whole = View.whole(ArraySource(images[trainval]), labels[trainval])
        train, val = (whole.subset(part) for part in stratified_split(labels[trainval], _VAL, seed=0))
        judged = View.whole(ArraySource(images[test]), labels[test])
        views = {"train": train, "val": val, "trainval": whole, "test": judged}
        return Task("digits", tuple("0123456789"), "single_label", views, "digits")
