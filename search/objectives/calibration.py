"""How well confidences are what they say. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Bin:
    """What was said with a confidence above `low` and up to `high`.

    Args:
        low: The lower end.
        high: The upper end.
        count: How often.
        confidence: Its mean; None where nothing is in it.
        right: The share that was right; None where nothing is in it.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    right: float | None


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, and the bins that it is summed over.

    Args:
        ece: The mean over all that was said of the distance, in its bin, between confidence and share that was right.
        bins: Of equal width (Guo et al., On Calibration of Modern Neural Networks, 2017).
    """

    ece: float
    bins: list[Bin]


def calibration_of(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """The calibration of what was said.

    Args:
        confidences: In 0..1, one or more.
        right: Whether each was right.
    """
    sure, hit = np.asarray(confidences), np.asarray(right, dtype=float)
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    bins, error = [], 0.0
    for index in range(BINS):
        inside = place == index
        count, ends = int(inside.sum()), (index / BINS, (index + 1) / BINS)
        if not count:
            bins.append(Bin(*ends, 0, None, None))
            continue
        mean, rate = float(sure[inside].mean()), float(hit[inside].mean())
        error += count / len(sure) * abs(mean - rate)
        bins.append(Bin(*ends, count, mean, rate))
    return Calibration(error, bins)


def share(part: int, whole: int) -> float | None:
    """A share; None of nothing.

    Args:
        part: How many.
        whole: Of how many.
    """
    return part / whole if whole else None
