"""What a kind of task asks for: outputs, loss, what another model teaches, and metrics. Torch-free to import."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from petlas.errors import UserError
from petlas.search.objectives.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor


class ObjectiveError(UserError):
    """A metric or a kind of task that there is not: the message says which there are."""


@dataclass(frozen=True)
class Metric:
    """How a model is judged, as plain data that a study can keep.

    Args:
        name: As `task.metric` names it.
        maximize: Whether more is better.
        paired: Whether the value is a mean over images, so that two candidates can be compared image by image and a
            value's standard error follows from the number of images.
        percent: Whether the value is a share, which is told in percent.
        by_class: Whether the value is a mean over classes of means over their images: over folds it is that of all
            images together, and two candidates can be compared image by image, each weighed by its class. One that is
            neither `paired` nor that is averaged over folds, and compared fold by fold.
    """

    name: str
    maximize: bool = True
    paired: bool = False
    percent: bool = True
    by_class: bool = False

    def format(self, value: float) -> str:
        """The value for people, such as `95.0%`."""
        return f"{100 * value:.1f}%" if self.percent else f"{value:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """The metric as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metric:
        """The metric of such data."""
        return cls(**data)


@dataclass(frozen=True)
class Assessment:
    """What a model gets right and wrong, and how sure it is of it, as plain data.

    Args:
        per_class: For each class, under `class`, `images` and the names of shares, what it comes to.
        confusion: For each class a row with how many of its images are said to be of each class; None where an image
            can be of several.
        calibration: How well confidences are what they say.
    """

    per_class: list[dict[str, Any]]
    confusion: list[list[int]] | None
    calibration: Calibration


class Meter(Protocol):
    """Takes in a model's outputs batch by batch, and says how good they are."""

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, K).
            targets: What they should have said, as the task's views hold it.
        """

    def value(self) -> float:
        """The metric over all that was taken in; NaN if an output was not finite."""


class Objective(ABC):
    """What a kind of task asks for. To add one: write its file, and add its line to `OBJECTIVES`.

    Args:
        metric: The name of one of `metrics`; None for the first.

    Raises:
        ObjectiveError: When there is no such metric.
    """

    kind: ClassVar[str]
    """The kind of task, as `Task.kind` says it."""

    metrics: ClassVar[tuple[Metric, ...]]
    """What can be measured, the usual one first."""

    def __init__(self, metric: str | None = None) -> None:
        names = [known.name for known in self.metrics]
        if metric is not None and metric not in names:
            near = get_close_matches(metric, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"take one of {', '.join(names)}"
            raise ObjectiveError(f"task.metric must be known for a {self.kind} task, got {metric}; {hint}")
        self.metric = self.metrics[0 if metric is None else names.index(metric)]

    def outputs(self, classes: int) -> int:
        """How many outputs the head has."""
        return classes

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """What training makes small: the mean over a batch.

        Args:
            logits: (B, K).
            targets: As the task's views hold them, B of them.
            smoothing: `train.label_smoothing`: the share of a target that is spread evenly.
        """

    @abstractmethod
    def soften(self, logits: Tensor) -> Tensor:
        """What a model with these logits (B, K) teaches others, (B, K)."""

    @abstractmethod
    def distil(self, logits: Tensor, taught: Tensor) -> Tensor:
        """The loss of a model that learns what another one teaches: the mean over a batch.

        Args:
            logits: (B, K).
            taught: What `soften` made of the other's, (B, K).
        """

    @abstractmethod
    def meter(self) -> Meter:
        """A fresh meter of the chosen metric."""

    @abstractmethod
    def confidences(self, logits: Tensor) -> Tensor:
        """How sure the model is of each class, (B, K) in 0..1, of logits (B, K)."""

    @abstractmethod
    def labels(self, confidences: Sequence[float], classes: Sequence[str]) -> list[tuple[str, float]]:
        """The classes that an image is said to be of, the surest first, each with its confidence.

        Args:
            confidences: One for each class, of one image.
            classes: Their names.
        """

    @abstractmethod
    def said(self, confidences: Tensor) -> Tensor:
        """What is said of images, as the task's views hold targets.

        Args:
            confidences: (N, K).
        """

    def right(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Whether each image is told right (B,), where the metric is made of that; None where it is not.

        Args:
            logits: (B, K).
            targets: As the task's views hold them, B of them.
        """
        return None

    @abstractmethod
    def targets(self, labels: Sequence[Any], classes: Sequence[str]) -> Tensor:
        """Targets as the task's views hold them, of labels as callers have them.

        Args:
            labels: One for each image.
            classes: Their names.

        Raises:
            ObjectiveError: When a label is of no class.
        """

    @abstractmethod
    def assess(self, confidences: Tensor, targets: Tensor, classes: Sequence[str]) -> Assessment:
        """What a model gets right and wrong.

        Args:
            confidences: As `confidences` gives them, (N, K).
            targets: As the task's views hold them, N of them.
            classes: Their names.
        """


def class_number(label: Any, numbers: Mapping[str, int]) -> int:
    """The number of the class that a label means.

    Args:
        label: The class's name or number.
        numbers: Of all classes, by their names.

    Raises:
        ObjectiveError: When it means none.
    """
    if isinstance(label, str):
        if label not in numbers:
            near = get_close_matches(label, numbers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the first of them are {', '.join([*numbers][:5])}"
            raise ObjectiveError(f"a label must name one of the {len(numbers)} classes, got {label!r}; {hint}")
        return numbers[label]
    try:
        number = index(label)
    except TypeError as error:
        raise ObjectiveError(
            f"a label must be a class's name or its number, got a {type(label).__name__}: {label!r:.60}"
        ) from error
    if not 0 <= number < len(numbers):
        raise ObjectiveError(f"a label must be 0..{len(numbers) - 1} or a class's name, got {number}")
    return number


def ranked(confidences: Sequence[float], classes: Sequence[str]) -> list[tuple[str, float]]:
    """All classes with their confidences, the surest first; equal ones in the order of the classes.

    Args:
        confidences: One for each class.
        classes: Their names.
    """
    return sorted(zip(classes, confidences, strict=True), key=lambda pair: -pair[1])


def ppt(value: float, params: int) -> float:
    """A value weighed by what it takes: PPT = value * exp(-log10(params / 10^7 + 1)) (V-PETL Bench, 2024).

    Args:
        value: A share, such as an accuracy.
        params: Trainable parameters, head excluded.
    """
    return value * math.exp(-math.log10(params / 1e7 + 1))
