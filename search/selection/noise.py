"""What to believe of candidates that were measured a little, on few images, at several fidelities.

A hierarchical model: what a candidate is worth is what other tasks say of it, what its methods, its learning rate and
its other settings are worth here, and something of its own; a shorter training shows that with a deviation, which grows
as the epochs shrink, and prefers other rates; each view of the data has a level of its own, at each number of epochs;
and what is counted on images has their noise. How large each of these is, is not known: the answer is the mean over a
grid of them, weighted by how well they explain what was measured. So a candidate is drawn towards those that are like
it, and they towards what other tasks say, the more, the less was seen of them (empirical Bayes; James and Stein, 1961),
and the best of many is not taken for as good as it looks. Torch-free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from petlas.search.selection.changes import Changes
from petlas.search.selection.evidence import Evidence
from petlas.search.selection.pooling import Measurement
from petlas.search.training.fidelity import Fidelity

Array = npt.NDArray[np.float64]

_SPREADS = {0.004: 5.0, 0.012: 3.0, 0.035: 0.7, 0.1: 0.1}
"""Standard deviations that methods and candidates may have beside what is expected of them, as shares of images, and
how likely each is: on nine of the ten recorded tasks of the portfolio they are 0.008 to 0.018, and on one 0.05
(benchmarks/selection/spreads.md, as all that is said of recorded tasks here)."""
_USUAL = 0.035
"""The one of them by which values of metrics that are no shares are scaled."""
_DEVIATIONS = {0.02: 1.0, 0.04: 1.0, 0.08: 1.0}
"""The same for what a training of a third of the epochs tells: 0.031 on recorded tasks, from 0.007 to 0.063."""
_NOISES = (0.3, 0.7, 1.5)
"""Variances of a measured value, by that of as many independent images: below 1 where candidates fail on the same
images, which their comparison does not notice; above it where another seed gives another model."""
_PAIRED = (0.7, 1.0, 1.5)
"""The same where single images are known, and with them on which of them candidates fail together."""
_LASTING = 0.5
"""The part of the variance over images that a candidate keeps with another seed: on the same images it errs again."""
_TRUSTS = {0.0: 0.3, 0.5: 1.0, 1.0: 2.0}
"""What is expected of candidates counts for so much, and how likely that is."""
_TILT = 0.03
"""Standard deviation of what ten times the rate is worth on a task, beside what is expected: 0.026 on recorded ones."""
_FLATTERED, _DRIFT = 0.044, 0.06
"""By how much a training of a third of the epochs flatters ten times the rate, and the standard deviation of that over
tasks: 0.047 and 0.064 on recorded ones."""
_LEVEL = 10.0
"""Standard deviation of the levels of views, in spreads of the values: hardly a belief at all."""
PAIRS = False
"""Whether single images are compared: it chooses no better in the simulation (benchmarks/selection/simulate.md)."""
_TIE = 0.1
"""What counts as equal, in standard errors of a difference."""


@dataclass(frozen=True)
class Known:
    """What is known of a candidate before it is measured.

    Args:
        methods: Of its design: candidates that share some are likely to be alike.
        rate: The decimal logarithm of its learning rate; None if it has none of its own.
        expected: What it is worth on other tasks, in shares of images, on each backbone that was recorded, or on all of
            them alike; without any as much as the mean. What is added to all candidates does not matter.
        settings: Its other settings, such as `hflip`: they are worth the same to all candidates that have them alike.
    """

    methods: frozenset[str] = frozenset()
    rate: float | None = None
    expected: tuple[float, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)


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

    def error_of_difference(self, first: str, second: str) -> float:
        """The standard error of what one candidate is worth more than another.

        Args:
            first: The key of one.
            second: The key of the other.
        """
        a, b = self.keys.index(first), self.keys.index(second)
        spread = self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]
        return math.sqrt(max(0.0, float(spread)))

    def ranked(self, params: Mapping[str, int], maximize: bool = True) -> list[str]:
        """The candidates, the best first; of those that can't be told from the best left, the smallest comes first.

        Which trial came first, which depends on the workers, does not matter.

        Args:
            params: The trainable parameters of each candidate that is to be ranked.
            maximize: Whether a higher value is better.
        """
        sign = 1 if maximize else -1
        means = dict(zip(self.keys, (-sign * self.mean).tolist(), strict=True))
        left = sorted(params.keys() & means.keys(), key=lambda key: (means[key], key))
        found: list[str] = []
        while left:
            ties = [key for key in left if self._tied(left[0], key)]
            found.append(min(ties, key=lambda key: params[key]))  # the first of equal ones
            left.remove(found[-1])
        return found

    def _tied(self, first: str, second: str) -> bool:
        a, b = self.keys.index(first), self.keys.index(second)
        return bool(abs(self.mean[a] - self.mean[b]) <= _TIE * self.error_of_difference(first, second))


def believe(
    evidence: Evidence,
    known: Mapping[str, Known],
    pairs: bool = PAIRS,
    maximize: bool = True,
    others: Mapping[str, Known] = MappingProxyType({}),
) -> Beliefs:
    """What the evidence says of every candidate that was measured, and of others by what they have in common with them.

    Args:
        evidence: What was measured, at any fidelity.
        known: What was known before, by the candidates' keys.
        pairs: Whether candidates that were measured on the same images are compared image by image, where all of them
            are known: the error of a difference is then that of the images of which one was right and one was not.
        maximize: Whether a higher value is better, and so what is flattered is too high.
        others: What is known of candidates that were not measured, by their keys.

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
    single = pairs and evidence.shares and all(_is_single(fidelity, measured) for _, fidelity, measured in rows)
    return _Model(rows, {**others, **known}, [*others], evidence.shares, single, maximize).beliefs()


class _Model:
    """The model of some rows of key, fidelity and measurement.

    Args:
        rows: N of them.
        known: Of the keys.
        others: The keys of candidates without rows.
        shares: Whether values are shares of images.
        single: Whether single images are compared: all rows have them.
        maximize: Whether a higher value is better.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str, Fidelity, Measurement]],
        known: Mapping[str, Known],
        others: Sequence[str],
        shares: bool,
        single: bool,
        maximize: bool,
    ) -> None:
        self.keys = tuple(dict.fromkeys([*(key for key, _, _ in rows), *others]))
        self._y = np.array([measured.value for _, _, measured in rows])
        views = [(fidelity.epochs, fidelity.folds, fidelity.fold, fidelity.repeat) for _, fidelity, _ in rows]
        most = max(fidelity.epochs for _, fidelity, _ in rows)
        spread = max(float(self._y.std()), 1e-6)
        self._unit = 1.0 if shares else spread / _USUAL
        self._level = (_LEVEL * max(spread, _USUAL * self._unit)) ** 2
        noise = self._noise_of([measured.images for _, _, measured in rows], shares, spread)
        self._own = own = np.array([self.keys.index(key) for key, _, _ in rows])
        before = [known.get(key, Known(frozenset({key}))) for key in self.keys]
        self._related = np.array([[_related(a.methods, b.methods) for b in before] for a in before])  # (C, C)
        given = [one.rate for one in before if one.rate is not None]
        middle = sum(given) / max(1, len(given))
        rates = np.array([0.0 if one.rate is None else one.rate - middle for one in before])
        changes = Changes([one.settings for one in before])
        self._shared = self._unit**2 * (_TILT**2 * np.outer(rates, rates) + changes.covariance)  # (C, C)
        said = np.array([measured.error or 0.0 for _, _, measured in rows])  # by scores, which are of no training
        self._noise = np.diag(np.where(said > 0, 0.0, noise)) + _repeated(rows, noise)  # (N, N)
        self._noises = _PAIRED if single else _NOISES
        self._noise = self._noise + _together(rows) if single else self._noise
        self._fixed = np.diag(said**2 + 1e-12)
        sign = 1 if maximize else -1
        grid = [*itertools.product(_trusted([one.expected for one in before]), changes.expected())]
        self._means = self._unit * np.array([expected + sign * own for (_, expected), (_, own) in grid])  # (T, C)
        self._likely = np.array([trusted * likely for (trusted, _), (likely, _) in grid])  # (T,)
        self._same_view = np.array([[float(a == b) for b in views] for a in views])  # (N, N)
        thirds = np.array([0.0 if m.error else math.log(most / max(1, f.epochs), 3) for _, f, m in rows])
        self._y = self._y - sign * self._unit * thirds * (_FLATTERED * rates - changes.untold)[own]
        walked = np.minimum.outer(thirds, thirds)  # (N, N): from long to short
        slow = self._related[np.ix_(own, own)] + np.equal.outer(own, own)  # some methods are slow, and some candidates
        self._shorter = walked * slow / 2
        drift = _DRIFT**2 * np.outer(rates, rates) + changes.settles
        self._drift = self._unit**2 * walked * drift[np.ix_(own, own)]
        top = np.array([float(epochs == most) for epochs, *_ in views])
        self._top = top / top.sum()  # the level that is asked for is that of whole trainings

    def _noise_of(self, images: Sequence[int], shares: bool, spread: float) -> Array:
        """(N,) the variance of each value, by its images."""
        counts = np.maximum(1, np.array(images, np.float64))
        if not shares:
            return np.asarray(0.25 * spread**2 * counts.mean() / counts)
        share: Array = (self._y * counts + 1) / (counts + 2)  # all right or all wrong is no proof of having no noise
        return np.asarray(share * (1 - share) / counts)

    def beliefs(self) -> Beliefs:
        """The mean over the grid: G of the spreads' values, and for each T of what may be expected."""
        found = [self._given(methods, own) for methods, own in itertools.product(_SPREADS, _SPREADS)]
        evidence, means, covariances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        grid = itertools.product(_SPREADS.values(), _SPREADS.values(), _DEVIATIONS.values(), self._noises)
        likely = np.array([methods * own * deviation for methods, own, deviation, _ in grid])  # (G,)
        evidence = evidence + np.log(np.outer(likely, self._likely))
        weights = np.exp(evidence - evidence.max())  # (G, T)
        weights /= weights.sum()
        mean = np.einsum("gt,gtc->c", weights, means)
        off = (means - mean).reshape(-1, len(mean))  # (G T, C)
        inner = np.einsum("g,gcd->cd", weights.sum(1), covariances)
        return Beliefs(self.keys, mean, inner + (weights.reshape(-1, 1) * off).T @ off)

    def _given(self, methods: float, own: float) -> tuple[Array, Array, Array]:
        """For each deviation and noise (B of them) the log evidence (B, T), means (B, T, C), covariances (B, C, C)."""
        methods, own = ((self._unit * spread) ** 2 for spread in (methods, own))
        alike = methods * self._related + own * np.eye(len(self.keys)) + self._shared  # before anything is measured
        places, levels = self._own, self._level * self._same_view
        grid = np.array([*itertools.product(_DEVIATIONS, self._noises)])[:, :, None, None]  # (B, 2, 1, 1)
        matrix = (self._unit * grid[:, 0]) ** 2 * self._shorter + grid[:, 1] * self._noise
        matrix = matrix + alike[np.ix_(places, places)] + self._drift + levels + self._fixed
        cross = alike[:, places] + levels @ self._top
        centred = self._y - self._y.mean() - self._means[:, places]  # (T, N)
        lower, right = np.linalg.cholesky(matrix), np.concatenate([centred, cross]).T
        solved = np.linalg.solve(lower, np.broadcast_to(right, (len(grid), *right.shape)))
        told, rest = np.split(solved, [len(self._means)], axis=2)
        size = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1)
        means = self._y.mean() + self._means + told.transpose(0, 2, 1) @ rest
        covariances = alike + self._top @ levels @ self._top - rest.transpose(0, 2, 1) @ rest
        return -0.5 * (told**2).sum(1) - size[:, None], means, covariances


def _trusted(expected: Sequence[tuple[float, ...]]) -> list[tuple[float, Array]]:
    """What may be expected of candidates (C,), and how likely that is: as on one of the backbones, or less of it.

    Args:
        expected: Of each of C candidates, on each backbone.
    """
    backbones = max(1, *map(len, expected))
    said = np.array([np.broadcast_to(own or 0.0, backbones) for own in expected], np.float64).T  # (backbones, C)
    said -= said.mean(1, keepdims=True)
    some = [(likely / backbones, trust * own) for trust, likely in _TRUSTS.items() if trust for own in said]
    return [(likely, 0 * said[0]) for trust, likely in _TRUSTS.items() if not trust] + some


def _is_single(fidelity: Fidelity, measured: Measurement) -> bool:
    """Whether a row can be compared image by image: folds of other deals have only parts of their images in common."""
    return fidelity.repeat == 0 and (measured.correct is not None or measured.error is not None)


def _together(rows: Sequence[tuple[str, Fidelity, Measurement]]) -> Array:
    """(N, N) the covariances of what was measured on the same images, by the images themselves; 0 on the diagonal.

    Args:
        rows: N of them, whose single images are known.
    """
    found, views = np.zeros((len(rows), len(rows))), dict[tuple[int | None, ...], list[int]]()
    for place, (_, fidelity, measured) in enumerate(rows):
        if measured.correct is not None:
            views.setdefault((fidelity.folds, fidelity.fold, fidelity.repeat), []).append(place)
    for places in views.values():
        right = np.array([rows[place][2].correct for place in places], np.float64)  # (M, images)
        right -= right.mean(axis=1, keepdims=True)
        found[np.ix_(places, places)] = right @ right.T / right.shape[1] ** 2
    np.fill_diagonal(found, 0)
    return found


def _repeated(rows: Sequence[tuple[str, Fidelity, Measurement]], noise: Array) -> Array:
    """(N, N) the covariances of what a candidate's trainings on folds of other deals have: they see the same images.

    Two folds of different deals share a part of their images, on average as many as a fold has by the number of folds.

    Args:
        rows: N of them.
        noise: (N,) the variance of each.
    """
    found = np.zeros((len(rows), len(rows)))
    for a, b in itertools.combinations(range(len(rows)), 2):
        (one, first, _), (other, second, _) = rows[a], rows[b]
        if one == other and first.folds and first.folds == second.folds and first.repeat != second.repeat:
            found[a, b] = found[b, a] = _LASTING * math.sqrt(noise[a] * noise[b]) / first.folds
    return found


def _related(one: frozenset[str], other: frozenset[str]) -> float:
    """How much two sets of methods have in common: the cosine of the angle between them."""
    if one == other:
        return 1.0
    return len(one & other) / math.sqrt(len(one) * len(other)) if one and other else 0.0
