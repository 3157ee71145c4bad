"""Tasks whose images are of one class each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.search.objectives.base import Assessment, Meter, Metric, Objective, class_number, ranked
from petlas.search.objectives.calibration import calibration_of, share

ACCURACY = Metric("accuracy", paired=True)
MEAN_PER_CLASS = Metric("mean_per_class", by_class=True)


class SingleLabel(Objective):
    """One class for each image: cross entropy; targets (B,) are the numbers of the classes.

    `accuracy` is the share of images whose largest output is right; `mean_per_class` the mean over the classes of that
    share, classes without an image left out.
    """

    kind = "single_label"
    metrics = (ACCURACY, MEAN_PER_CLASS)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The cross entropy.

        Args:
            logits: (B, K).
            targets: (B,) numbers of classes.
            smoothing: The share of each target that is spread over all classes.
        """
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def soften(self, logits: Tensor) -> Tensor:
        """The probabilities."""
        return logits.softmax(dim=1)

    def distil(self, logits: Tensor, taught: Tensor) -> Tensor:
        """The cross entropy with the other's probabilities.

        Args:
            logits: (B, K).
            taught: (B, K).
        """
        return F.cross_entropy(logits, taught)

    def meter(self) -> Meter:
        """Of the chosen metric."""
        return AccuracyMeter() if self.metric == ACCURACY else MeanPerClassMeter()

    def confidences(self, logits: Tensor) -> Tensor:
        """The probabilities."""
        return logits.softmax(dim=-1)

    def labels(self, confidences: Sequence[float], classes: Sequence[str]) -> list[tuple[str, float]]:
        """The surest class alone.

        Args:
            confidences: (K,).
            classes: Their names.
        """
        return ranked(confidences, classes)[:1]

    def said(self, confidences: Tensor) -> Tensor:
        """The number (N,) of the surest class.

        Args:
            confidences: (N, K).
        """
        return confidences.argmax(dim=1)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether the largest output is the right one (B,), as both metrics count it.

        Args:
            logits: (B, K).
            targets: (B,) numbers of classes.
        """
        return logits.argmax(dim=1) == targets

    def targets(self, labels: Sequence[Any], classes: Sequence[str]) -> Tensor:
        """Numbers of classes (N,).

        Args:
            labels: A name or a number for each image.
            classes: Their names.
        """
        numbers = {name: number for number, name in enumerate(classes)}
        return torch.tensor([class_number(label, numbers) for label in labels], dtype=torch.int64)

    def assess(self, confidences: Tensor, targets: Tensor, classes: Sequence[str]) -> Assessment:
        """Recall, as `accuracy`, and precision of each class, and which classes are taken for which."""
        sure, said = confidences.cpu().double().max(dim=1)
        targets, count = targets.cpu(), len(classes)
        confusion = torch.bincount(targets * count + said, minlength=count * count).view(count, count)
        per_class = []
        for index, name in enumerate(classes):
            right, images, told = (
                int(n) for n in (confusion[index, index], confusion[index].sum(), confusion[:, index].sum())
            )
            others = {other: int(n) for other, n in zip(classes, confusion[index], strict=True) if n and other != name}
            row = {"class": name, "images": images, "accuracy": share(right, images), "precision": share(right, told)}
            per_class.append(row | {"taken_for": max(others, key=lambda other: others[other], default=None)})
        return Assessment(per_class, confusion.tolist(), calibration_of(sure.tolist(), (said == targets).tolist()))


class AccuracyMeter:
    """The share of images whose largest output is the right one; nothing is read from the device before the end."""

    def __init__(self) -> None:
        self._images = 0
        self._correct: Tensor | int = 0
        self._finite: Tensor | bool = True

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, K).
            targets: (B,) numbers of classes.
        """
        self._images += len(targets)
        self._correct = (logits.argmax(dim=1) == targets).sum() + self._correct
        self._finite = logits.isfinite().all() & self._finite

    def value(self) -> float:
        """The share; NaN if an output was not finite, or nothing was taken in."""
        return int(self._correct) / self._images if self._images and self._finite else math.nan


class MeanPerClassMeter:
    """The mean over the classes that occur of the share of their images that are right."""

    def __init__(self) -> None:
        self._images: Tensor | int = 0
        self._correct: Tensor | int = 0
        self._finite: Tensor | bool = True

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, K).
            targets: (B,) numbers of classes.
        """
        own = torch.arange(logits.shape[1], device=targets.device) == targets[:, None]
        right = own & (logits.argmax(dim=1) == targets)[:, None]
        self._images = own.sum(dim=0) + self._images
        self._correct = right.sum(dim=0) + self._correct
        self._finite = logits.isfinite().all() & self._finite

    def value(self) -> float:
        """The mean; NaN if an output was not finite, or nothing was taken in."""
        if isinstance(self._images, int) or isinstance(self._correct, int) or not self._finite:
            return math.nan
        occurs = self._images > 0
        return (self._correct[occurs].double() / self._images[occurs]).mean().item()
