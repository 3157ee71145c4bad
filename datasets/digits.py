"""The task `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

import numpy as np

from petlas.datasets.sources import ArraySource
from petlas.datasets.split import Indices, stratified_split
from petlas.datasets.task import Split, Task

_TEST, _VAL = 797, 200


def open_digits() -> Task:
    """800 training, 200 validation and 797 test images, stratified and always the same."""
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    grey, target = load_digits(return_X_y=True)
    images = np.rint(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = target.astype(np.int64)
    trainval, test = stratified_split(labels, _TEST, seed=0)
    train, val = (trainval[part] for part in stratified_split(labels[trainval], _VAL, seed=0))

    def split(indices: Indices) -> Split:
        return Split(ArraySource(images[indices]), labels[indices])

    splits = {"train": split(train), "val": split(val), "trainval": split(trainval), "test": split(test)}
    return Task("digits", tuple("0123456789"), splits)
