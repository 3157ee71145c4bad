"""What was measured of each candidate, at which fidelity, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from petlas.search.selection.pooling import Measurement, classes_of, fold_error, images_of, mean_and_error
from petlas.search.training.fidelity import Fidelity


@dataclass(frozen=True)
class Pooled:
    """The value over all folds, so that every image is counted once, by a model that did not learn from it.

    Args:
        value: That of all images together, or where these are not known one by one the mean over the folds, weighted
            by their images; over seeds, where there are several.
        error: The standard error by the number of images; NaN for a metric that is no mean over them.
        images: How many there are in all folds of one seed.
    """

    value: float
    error: float
    images: int


@dataclass(frozen=True)
class Difference:
    """By how much one candidate is above another over all folds, and the standard error of that.

    Args:
        value: The first one's pooled value minus the second one's.
        error: Its standard error; smaller where both were told right or wrong on the same images.
        paired: Whether the error is that of the same images, one by one, or else fold by fold.
    """

    value: float
    error: float
    paired: bool


@dataclass(frozen=True)
class Evidence:
    """What a study knows of its candidates.

    Args:
        measured: For each candidate's key, what was measured of it at each fidelity.
        epochs: What a whole training has: no other is evidence for a choice.
        shares: Whether values are shares of images, whose standard error follows from their number.
    """

    measured: Mapping[str, Mapping[Fidelity, Measurement]]
    epochs: int
    shares: bool = True

    @classmethod
    def of(cls, rows: Iterable[tuple[str, Fidelity, Measurement]], epochs: int, shares: bool = True) -> Evidence:
        """Evidence from rows of key, fidelity and measurement; of two rows of the same training the first counts.

        Args:
            rows: In any order.
            epochs: What a whole training has.
            shares: Whether values are shares of images.
        """
        measured: dict[str, dict[Fidelity, Measurement]] = {}
        for key, fidelity, measurement in rows:
            measured.setdefault(key, {}).setdefault(fidelity, measurement)
        return cls(measured, epochs, shares)

    @cached_property
    def values(self) -> dict[str, float]:
        """For each candidate that was trained whole, its value on the selection split; the mean over seeds."""
        whole = {
            key: [m.value for f, m in own.items() if f.fold is None and self._is_whole(f) and math.isfinite(m.value)]
            for key, own in self.measured.items()
        }
        return {key: fmean(sorted(values)) for key, values in whole.items() if values}

    @cached_property
    def partly(self) -> frozenset[str]:
        """The candidates that were trained whole on some folds."""
        return frozenset(
            key
            for key, own in self.measured.items()
            if any(f.fold is not None and self._is_whole(f) and math.isfinite(m.value) for f, m in own.items())
        )

    @cached_property
    def folds(self) -> int | None:
        """The folds that finalists are compared on: the most that some candidate has all of; None for none."""
        return max((count for own in self._complete.values() for count, *_ in own), default=None)

    def pooled(self, key: str) -> Pooled | None:
        """What all folds of a candidate come to; None unless every fold of some seed was trained whole.

        Args:
            key: The candidate's.
        """
        seeds = list(self._seeds(key).values())
        if not seeds:
            return None
        images = sum(m.images for m in seeds[0])
        found = [self._over(folds) for folds in seeds]
        value = fmean(sorted(value for value, _ in found))
        return Pooled(value, _error_of_share(value, images) if self.shares else found[0][1], images)

    def _over(self, folds: Sequence[Measurement]) -> tuple[float, float]:
        """The value over the folds of one seed, and its error where the metric is no share of images."""
        images = [m.images for m in folds]
        right = images_of(folds) if all(m.classes is not None for m in folds) else None
        if right is not None:
            return mean_and_error(right, classes_of(folds))
        value = sum(m.value * m.images for m in folds) / sum(images)
        return value, math.nan

    def difference(self, first: str, second: str) -> Difference:
        """Compare two candidates over all folds; by their single images where these are known of both.

        Args:
            first: The key of one.
            second: The key of the other.

        Raises:
            ValueError: When one of them was not measured on all folds.
        """
        a, b = self.pooled(first), self.pooled(second)
        if a is None or b is None:
            missing = first if a is None else second
            raise ValueError(f"a candidate must have all its folds to be compared on them, and {missing!r} has not")
        value = a.value - b.value
        mine, its = self._seeds(first), self._seeds(second)
        common = min(mine.keys() & its.keys(), default=None)
        error = None if common is None else self._paired_error(mine[common], its[common])
        return Difference(value, math.hypot(a.error, b.error) if error is None else error, paired=error is not None)

    def _paired_error(self, mine: Sequence[Measurement], its: Sequence[Measurement]) -> float | None:
        """The error of the difference of two candidates that one seed measured on the same folds."""
        own, other = images_of(mine), images_of(its)
        by_image = self.shares or all(m.classes is not None for m in mine)
        if own is not None and other is not None and len(own) == len(other) and by_image:
            return mean_and_error(own - other, classes_of(mine))[1]
        images = [m.images for m in mine]
        return None if self.shares else fold_error([a.value - b.value for a, b in zip(mine, its, strict=True)], images)

    def _seeds(self, key: str) -> dict[tuple[int, int], list[Measurement]]:
        """For each repeat and seed of which a candidate has all folds, their measurements in the order of the folds."""
        own = self._complete.get(key, {})
        return {(repeat, seed): folds for (count, repeat, seed), folds in sorted(own.items()) if count == self.folds}

    @cached_property
    def _complete(self) -> dict[str, dict[tuple[int, int, int], list[Measurement]]]:
        """For each candidate, the complete folds by their number, the repeat and the seed."""
        return {
            key: _complete_folds({f: m for f, m in own.items() if self._is_whole(f)})
            for key, own in self.measured.items()
        }

    def _is_whole(self, fidelity: Fidelity) -> bool:
        return fidelity.epochs == self.epochs


def _complete_folds(measured: Mapping[Fidelity, Measurement]) -> dict[tuple[int, int, int], list[Measurement]]:
    """The measurements of each number of folds, repeat and seed of which none is missing."""
    found: dict[tuple[int, int, int], dict[int, Measurement]] = {}
    for fidelity, measurement in measured.items():
        counts = measurement.images > 0 and math.isfinite(measurement.value)
        if fidelity.fold is not None and fidelity.folds is not None and counts:
            found.setdefault((fidelity.folds, fidelity.repeat, fidelity.seed), {})[fidelity.fold] = measurement
    return {place: [own[i] for i in sorted(own)] for place, own in found.items() if len(own) == place[0]}


def _error_of_share(value: float, images: int) -> float:
    """The standard error of a share of independent images."""
    return math.sqrt(value * (1 - value) / images) if 0 <= value <= 1 else math.nan
