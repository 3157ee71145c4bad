"""How well scores rank candidates: against candidates that were trained on their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 1000
_TOP = (1, 3)


@dataclass(frozen=True)
class Agreement:
    """The evidence for scores as a guide.

    Args:
        tau: Kendall's tau-b of scores and stand-alone values.
        low: The lower end of its 95% bootstrap interval over candidates.
        high: The upper end.
        regret: For the best 1 and 3 by score, what is lost against the best of all.
        points: For each candidate its trial number, score and stand-alone value.
    """

    tau: float
    low: float
    high: float
    regret: dict[int, float]
    points: tuple[tuple[int, float, float], ...]

    @property
    def trusted(self) -> bool:
        """Whether the scores rank better than chance: the interval lies above 0."""
        return self.low > 0


def agreement_of(points: Iterable[tuple[int, float, float]]) -> Agreement | None:
    """The agreement over some candidates, the higher the better; None for fewer than two.

    Args:
        points: For each candidate its trial number, score and stand-alone value.
    """
    points = tuple(points)
    if len(points) < 2:
        return None
    scores, values = [score for _, score, _ in points], [value for _, _, value in points]
    lost = {top: regret(scores, values, top) for top in _TOP}
    return Agreement(*rank_agreement(scores, values), lost, points)


def rank_agreement(scores: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Kendall's tau-b with a 95% percentile bootstrap interval over the candidates; NaN where all are tied.

    Args:
        scores: One for each candidate.
        values: One for each candidate, in the same order.
    """
    x, y = np.asarray(scores), np.asarray(values)
    picks = np.random.default_rng(0).integers(len(x), size=(_RESAMPLES, len(x)))
    drawn = _tau(x[picks], y[picks])
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (math.nan, math.nan)
    return float(_tau(x, y)), float(low), float(high)


def _tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b along the last axis."""
    first, second = np.triu_indices(x.shape[-1], k=1)
    a, b = (np.sign(values[..., first] - values[..., second]) for values in (x, y))
    with np.errstate(invalid="ignore"):
        tau: np.ndarray = (a * b).sum(-1) / np.sqrt((a != 0).sum(-1) * (b != 0).sum(-1))
    return tau


def regret(scores: Sequence[float], values: Sequence[float], top: int) -> float:
    """The best value of all minus the best among the `top` candidates by score; ties by score count as the worst.

    Args:
        scores: One for each candidate.
        values: One for each candidate, in the same order.
        top: How many of the best by score are looked at.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], values[i]))
    return max(values) - max(values[i] for i in order[:top])
