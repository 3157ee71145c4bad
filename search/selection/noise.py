"""What to believe of candidates that were measured a little, on few images, at several fidelities.

A hierarchical model: what a candidate is worth is what its group (its methods) is worth and something of its own; a
shorter training shows that with a deviation, which grows as the epochs shrink; each view of the data has a level of its
own, at each number of epochs; and what is counted on images has their noise. How large each of these is, is not known:
the answer is the mean over a grid of them, weighted by how well they explain what was measured. So a candidate is drawn
towards its group and the group towards all, the more, the less was seen of it (empirical Bayes; James and Stein, 1961),
and the best of many is not taken for as good as it looks. Torch-free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from petlas.search.selection.evidence import Evidence, Measurement
from petlas.search.training.fidelity import Fidelity

Array = npt.NDArray[np.float64]

_SPREADS = (0.004, 0.012, 0.035, 0.1)
"""Standard deviations that groups and candidates may have, as shares of images."""
_DEVIATIONS = (0.004, 0.012, 0.035)
"""Standard deviations of what a training of a third of the epochs tells."""
_NOISES = (0.3, 0.7, 1.5)
"""Variances of a measured value, by that of as many independent images: below 1 where candidates fail on the same
images, which their comparison does not notice; above it where another seed gives another model."""
_LEVEL = 10.0
"""Standard deviation of the levels of views, in spreads of the values: hardly a belief at all."""
_TIE = 0.1
"""What counts as equal, in standard errors of a difference."""


@dataclass(frozen=True)
class Beliefs:
    """What candidates are worth at the most epochs that any was trained for.

    Args:
        keys: Of the candidates.
        mean: (C,) of each.
        covariance: (C, C) of them.
    """

    keys: tuple[str, ...]
    mean: Array
    covariance: Array

    def of(self, key: str) -> tuple[float, float]:
        """What a candidate is worth, and the standard error of that."""
        place = self.keys.index(key)
        return float(self.mean[place]), math.sqrt(max(0.0, float(self.covariance[place, place])))

    def ranked(self, params: Mapping[str, int], maximize: bool = True) -> list[str]:
        """The candidates, the best first; of those that can't be told from the best left, the smallest comes first.

        Args:
            params: The trainable parameters of each candidate that is to be ranked, in the order of the first trials.
            maximize: Whether a higher value is better.
        """
        sign = 1 if maximize else -1
        left = sorted(
            (key for key in params if key in self.keys), key=lambda key: -sign * self.mean[self.keys.index(key)]
        )
        found: list[str] = []
        while left:
            ties = [key for key in left if self._tied(left[0], key)]
            found.append(min(ties, key=lambda key: params[key]))  # the first of equal ones
            left.remove(found[-1])
        return found

    def _tied(self, first: str, second: str) -> bool:
        a, b = self.keys.index(first), self.keys.index(second)
        spread = self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]
        return bool(abs(self.mean[a] - self.mean[b]) <= _TIE * math.sqrt(max(0.0, spread)))


def believe(evidence: Evidence, groups: Mapping[str, str]) -> Beliefs:
    """What the evidence says of every candidate that was measured.

    Args:
        evidence: What was measured, at any fidelity.
        groups: For each candidate's key the name of its group.

    Returns:
        Beliefs, of none where nothing was measured.
    """
    rows = [
        (key, fidelity, measured)
        for key, own in evidence.measured.items()
        for fidelity, measured in own.items()
        if math.isfinite(measured.value)
    ]
    rows.sort(key=lambda row: (row[0], str(row[1])))  # sums do not depend on which came first
    if not rows:
        return Beliefs((), np.zeros(0), np.zeros((0, 0)))
    return _Model(rows, groups, evidence.shares).beliefs()


class _Model:
    """The model of some rows of key, fidelity and measurement.

    Args:
        rows: N of them.
        groups: Of the keys.
        shares: Whether values are shares of images.
    """

    def __init__(
        self, rows: Sequence[tuple[str, Fidelity, Measurement]], groups: Mapping[str, str], shares: bool
    ) -> None:
        self.keys = tuple(dict.fromkeys(key for key, _, _ in rows))
        self._y = np.array([measured.value for _, _, measured in rows])
        self._most = max(fidelity.epochs for _, fidelity, _ in rows)
        self._views = [(fidelity.epochs, fidelity.folds, fidelity.fold) for _, fidelity, _ in rows]
        spread = max(float(self._y.std()), 1e-6)
        self._unit = 1.0 if shares else spread / _SPREADS[2]
        self._level = (_LEVEL * max(spread, _SPREADS[2] * self._unit)) ** 2
        self._noise = self._noise_of([measured.images for _, _, measured in rows], shares, spread)
        own = np.array([self.keys.index(key) for key, _, _ in rows])
        group = np.array([groups.get(key, key) for key in self.keys])
        self._own = own
        self._same_group = np.equal.outer(group, group).astype(np.float64)  # (C, C)
        self._same_view = np.array([[float(a == b) for b in self._views] for a in self._views])  # (N, N)
        thirds = np.array([math.log(self._most / max(1, fidelity.epochs), 3) for _, fidelity, _ in rows])
        self._shorter = np.minimum.outer(thirds, thirds) * np.equal.outer(own, own)  # (N, N): a walk from long to short
        top = np.array([float(epochs == self._most) for epochs, _, _ in self._views])
        self._top = top / top.sum()  # the level that is asked for is that of whole trainings

    def _noise_of(self, images: Sequence[int], shares: bool, spread: float) -> Array:
        """(N,) the variance of each value, by its images."""
        counts = np.maximum(1, np.array(images, np.float64))
        if not shares:
            return np.asarray(0.25 * spread**2 * counts.mean() / counts)
        share: Array = (self._y * counts + 1) / (counts + 2)  # all right or all wrong is no proof of having no noise
        return np.asarray(share * (1 - share) / counts)

    def beliefs(self) -> Beliefs:
        """The mean over the grid."""
        found = [self._given(*spreads) for spreads in itertools.product(_SPREADS, _SPREADS, _DEVIATIONS, _NOISES)]
        evidence = np.array([weight for weight, _, _ in found])
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        means = np.array([mean for _, mean, _ in found])
        mean = weights @ means
        off = means - mean
        covariance = sum(w * (own + np.outer(o, o)) for w, o, (_, _, own) in zip(weights, off, found, strict=True))
        return Beliefs(self.keys, mean, np.asarray(covariance))

    def _given(self, group: float, own: float, shorter: float, noise: float) -> tuple[float, Array, Array]:
        """The log evidence for some spreads, and the mean and covariance of the candidates given them."""
        group, own, shorter = ((self._unit * spread) ** 2 for spread in (group, own, shorter))
        alike = group * self._same_group + own * np.eye(len(self.keys))  # of candidates, before anything is measured
        places, levels = self._own, self._level * self._same_view
        matrix = alike[np.ix_(places, places)] + shorter * self._shorter + levels + np.diag(noise * self._noise)
        cross = alike[:, places] + levels @ self._top
        lower, centre = np.linalg.cholesky(matrix + 1e-12 * np.eye(len(matrix))), float(self._y.mean())
        solved = np.linalg.solve(lower, np.column_stack([self._y - centre, cross.T]))
        told, rest = solved[:, 0], solved[:, 1:]
        evidence = -0.5 * float(told @ told) - float(np.log(np.diag(lower)).sum())
        return evidence, centre + rest.T @ told, alike + self._top @ levels @ self._top - rest.T @ rest
