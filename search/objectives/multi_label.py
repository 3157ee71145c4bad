"""Tasks whose images are of any number of classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.search.objectives.base import (
    Assessment,
    Meter,
    Metric,
    Objective,
    ObjectiveError,
    class_number,
    ranked,
)
from petlas.search.objectives.calibration import calibration_of, share

MEAN_AP = Metric("mAP")

SURE = 0.5
"""An image is said to be of the classes whose confidence is at least this."""


class MultiLabel(Objective):
    """Any number of classes for each image: one yes or no for each class; targets (B, K) are bools.

    The loss is the binary cross entropy of the outputs' sigmoids, the mean over images and classes. `mAP` is the mean
    over the classes of the average precision, classes without a positive image left out: with nothing to find, there
    is no precision (as in PASCAL VOC and COCO; Everingham et al., 2010).
    """

    kind = "multi_label"
    metrics = (MEAN_AP,)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The binary cross entropy.

        Args:
            logits: (B, K).
            targets: (B, K) bools.
            smoothing: The share s that is spread over yes and no: yes becomes 1 - s / 2, and no s / 2.
        """
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits) * (1 - smoothing) + smoothing / 2)

    def soften(self, logits: Tensor) -> Tensor:
        """The probability of each class."""
        return logits.sigmoid()

    def distil(self, logits: Tensor, taught: Tensor) -> Tensor:
        """The binary cross entropy with the other's probabilities.

        Args:
            logits: (B, K).
            taught: (B, K).
        """
        return F.binary_cross_entropy_with_logits(logits, taught)

    def meter(self) -> Meter:
        """Of the mean average precision."""
        return MeanAveragePrecisionMeter()

    def confidences(self, logits: Tensor) -> Tensor:
        """The probability of each class."""
        return logits.sigmoid()

    def labels(self, confidences: Sequence[float], classes: Sequence[str]) -> list[tuple[str, float]]:
        """The classes that are more likely than not; there may be none.

        Args:
            confidences: (K,).
            classes: Their names.
        """
        return [(name, sure) for name, sure in ranked(confidences, classes) if sure >= SURE]

    def said(self, confidences: Tensor) -> Tensor:
        """The classes that are more likely than not, (N, K) bools.

        Args:
            confidences: (N, K).
        """
        return confidences >= SURE

    def targets(self, labels: Sequence[Any], classes: Sequence[str]) -> Tensor:
        """Which classes each image has (N, K).

        Args:
            labels: For each image a list of names, or a row of K that says yes or no to each class.
            classes: Their names.
        """
        numbers = {name: number for number, name in enumerate(classes)}
        found = np.zeros((len(labels), len(classes)), dtype=bool)
        for row, label in zip(found, labels, strict=True):
            if isinstance(label, str) or not isinstance(label, Iterable):
                raise ObjectiveError(f"an image's labels must be a list of names or a row of yes and no, got {label!r}")
            if isinstance(label, list | tuple | set | frozenset) and all(isinstance(name, str) for name in label):
                row[[class_number(name, numbers) for name in label]] = True
                continue
            said = np.asarray(label)
            if said.shape != row.shape or not np.isin(said, (0, 1)).all():
                raise ObjectiveError(
                    f"a row of labels must say yes or no (1 or 0) to each of the {len(classes)} classes, got {label!r}"
                )
            row[:] = said
        return torch.from_numpy(found)

    def assess(self, confidences: Tensor, targets: Tensor, classes: Sequence[str]) -> Assessment:
        """Average precision, recall and precision of each class; each class of each image counts for calibration."""
        sure, true = confidences.double().cpu().numpy(), targets.bool().cpu().numpy()
        said, per_class = sure >= SURE, []
        for index, name in enumerate(classes):
            positive, told = true[:, index], said[:, index]
            right, images = int((positive & told).sum()), int(positive.sum())
            found = average_precision(sure[:, index], positive) if images else None
            row = {"class": name, "images": images, "average_precision": found}
            per_class.append(row | {"recall": share(right, images), "precision": share(right, int(told.sum()))})
        return Assessment(per_class, None, calibration_of(sure.ravel().tolist(), true.ravel().tolist()))


class MeanAveragePrecisionMeter:
    """Keeps all outputs until the end, as a class's images are ranked together."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, K).
            targets: (B, K) bools.
        """
        self._logits.append(logits.detach())
        self._targets.append(targets)

    def value(self) -> float:
        """The mean; NaN if an output was not finite, or no class has a positive image."""
        if not self._logits:
            return math.nan
        scores = torch.cat(self._logits).double().cpu().numpy()
        positives = torch.cat(self._targets).bool().cpu().numpy()
        occur = np.flatnonzero(positives.any(axis=0))
        if not np.isfinite(scores).all() or not len(occur):
            return math.nan
        return float(np.mean([average_precision(scores[:, k], positives[:, k]) for k in occur]))


def average_precision(scores: npt.NDArray[np.float64], positives: npt.NDArray[np.bool_]) -> float:
    """The sum over the distinct scores, from the highest, of the precision there times the recall that it adds.

    Not interpolated; images of equal score come in together, so that their order does not matter.

    Args:
        scores: (N,), finite.
        positives: (N,), at least one.
    """
    order = np.argsort(-scores, kind="stable")
    ranked_scores, hits = scores[order], np.cumsum(positives[order])
    last = np.append(np.flatnonzero(np.diff(ranked_scores)), len(scores) - 1)  # of each distinct score
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
