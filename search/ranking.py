"""How well supernet scores rank designs: against designs that were trained on their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import TrialState

from petlas.search.record import RANKING, StudyRecord

_RESAMPLES = 1000
_TOP = (1, 3)


@dataclass(frozen=True)
class Ranking:
    """The evidence for scores as a guide.

    Args:
        tau: Kendall's tau-b of scores and stand-alone accuracies.
        low: The lower end of its 95% bootstrap interval over designs.
        high: The upper end.
        regret: For the best 1 and 3 by score, what is lost against the best of all, in accuracy.
        points: For each design its trial number, score and stand-alone accuracy.
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


def rank_agreement(scores: Sequence[float], vals: Sequence[float]) -> tuple[float, float, float]:
    """Kendall's tau-b with a 95% percentile bootstrap interval over the designs; NaN where all are tied."""
    x, y = np.asarray(scores), np.asarray(vals)
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


def regret(scores: Sequence[float], vals: Sequence[float], top: int) -> float:
    """The best accuracy of all minus the best among the `top` designs by score; ties by score count as the worst."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], vals[i]))
    return max(vals) - max(vals[i] for i in order[:top])


def ranking_of(record: StudyRecord) -> Ranking | None:
    """The evidence in a study; None without two designs of the ranking check that are trained."""
    scores = {trial.user_attrs["key"]: trial.values[0] for trial in record.scored()}
    checked = [t for t in record.trials(TrialState.COMPLETE) if t.user_attrs["stage"] == RANKING]
    points = tuple((t.number, scores[t.user_attrs["key"]], t.values[0]) for t in checked)
    if len(points) < 2:
        return None
    x, y = [score for _, score, _ in points], [val for _, _, val in points]
    return Ranking(*rank_agreement(x, y), {top: regret(x, y, top) for top in _TOP}, points)
