"""What is believed beforehand of settings other than the learning rate. Torch-free."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_WORTH = {
    "shift": {0.15: 1.0, 0.04: 3.0, 0.0: 3.0, -0.05: 0.7, -0.15: 0.5, -0.4: 0.8},
    "hflip": {0.02: 3.0, -0.02: 3.0, -0.07: 1.5, -0.15: 1.0, -0.4: 1.0},
}
"""What moved and mirrored images may be worth, in shares of images, and how likely each is: on recorded tasks they gain
up to 0.2, and where a place or a direction tells classes apart, they lose nearly all that there is
(benchmarks/portfolio/augmented.md)."""
_BESIDE, _OTHERS = 0.03, 0.01
"""Standard deviations of what they are worth beside that, and of what other settings are worth."""
_UNTOLD, _SETTLES = 0.02, 0.04
"""How much of what they are worth a training of a third of the epochs does not tell, and the standard deviation of
that: 0.030 and 0.056 for moved images on recorded tasks, 0.007 and 0.037 for mirrored ones."""


class Changes:
    """What settings are worth to candidates, each at its largest value beside its least, and linear between.

    Args:
        settings: Those of each candidate, C of them; whoever has none of a name is where the least value is.
    """

    def __init__(self, settings: Sequence[Mapping[str, float]]) -> None:
        names = sorted({name for own in settings for name in own})
        rows = {name: row for name in names if (row := _places([own.get(name) for own in settings]))}
        self._names = list(rows)
        self._places = np.array([*rows.values()], np.float64).reshape(len(rows), len(settings))  # (S, C)
        drawn = np.array([name in _WORTH for name in rows], np.bool_)  # (S,)
        spreads = np.where(drawn, _BESIDE, _OTHERS)
        self.covariance: Array = self._places.T @ (spreads[:, None] ** 2 * self._places)
        """(C, C) of what they are worth beside what may be expected."""
        changed = drawn @ self._places  # (C,)
        self.untold: Array = _UNTOLD * changed
        """(C,) by how much less a training of a third of the epochs tells of each candidate."""
        self.settles: Array = _SETTLES**2 * np.outer(changed, changed)
        """(C, C) the covariance of that."""

    def expected(self) -> list[tuple[float, Array]]:
        """What they may be worth (C,), and how likely that is."""
        worths = [[*_WORTH.get(name, {0.0: 1.0}).items()] for name in self._names]
        return [
            (math.prod(chance for _, chance in own), np.array([worth for worth, _ in own]) @ self._places)
            for own in itertools.product(*worths)
        ]


def _places(values: Sequence[float | None]) -> list[float]:
    """Where a setting's values lie, from the least, 0, to the largest, 1; none where there is only one value."""
    given = [value for value in values if value is not None]
    low, span = min(given), max(given) - min(given)
    return [0.0 if value is None else (value - low) / span for value in values] if span else []
