"""What single images, or else single folds, say of a candidate, and of two that were measured on the same ones.

A value over all folds is that of the predictions for every image by a model that did not learn from it. Where the
metric is a mean over images, or over classes of means over their images, each image counts with a weight, and two
candidates are compared image by image. A metric that ranks images, such as mAP, cannot be put together of predictions
of several models, whose outputs do not compare: there the mean over the folds counts (Forman and Scholz, Apples-to-
apples in cross-validation studies, 2010), and two candidates are compared fold by fold. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """What one training gave.

    Args:
        value: Of the metric.
        images: How many it was measured on.
        correct: For each image, in the order of its view, whether it was told right; None where that is not known.
        classes: The class of each image, where the metric is a mean over classes of means over their images.
        error: Its standard deviation where it is no training that was measured, but what a score says of one.
    """

    value: float
    images: int
    correct: tuple[bool, ...] | None = None
    classes: Sequence[int] | None = None
    error: float | None = None


def images_of(folds: Sequence[Measurement]) -> Array | None:
    """(N,) 1 for each image that was told right, in the order of the folds; None where that is not known.

    Args:
        folds: Measurements of one candidate.
    """
    if any(fold.correct is None or len(fold.correct) != fold.images for fold in folds):
        return None
    return np.array([right for fold in folds for right in fold.correct or ()], np.float64)


def classes_of(folds: Sequence[Measurement]) -> npt.NDArray[np.int64]:
    """(N,) of which class each image counts: all of one where no classes are told.

    Args:
        folds: Measurements whose images are known.
    """
    return np.array([c for fold in folds for c in fold.classes or (0,) * fold.images], np.int64)


def mean_and_error(values: Array, classes: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The mean over the classes of the means over their images, and the standard error of that.

    Args:
        values: (N,) of each image: whether it was told right, or by how much another candidate is behind there.
        classes: (N,) of each image.
    """
    _, own, counts = np.unique(classes, return_inverse=True, return_counts=True)
    means = np.bincount(own, values) / counts
    free = counts - (len(counts) > 1)  # of classes with few images it matters that their means are estimated
    spread = np.bincount(own, (values - means[own]) ** 2)
    variances = np.where(free > 0, spread / np.maximum(free, 1), values.var()) / counts
    return float(means.mean()), math.sqrt(float(variances.sum())) / len(counts)


def fold_error(values: Sequence[float], images: Sequence[int]) -> float:
    """The standard error of a mean over folds by how much they differ; NaN for a single one.

    Folds share most of what they learn from, so it is somewhat too small (Bengio and Grandvalet, 2004).

    Args:
        values: Of each fold.
        images: Of each fold: its weight.
    """
    if len(values) < 2:
        return math.nan
    mean = np.average(values, weights=images)
    variance = float(np.average((np.asarray(values) - mean) ** 2, weights=images))
    return math.sqrt(variance / (len(values) - 1))
