"""Work that is one step, in which nothing is learned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from petlas.search.training import EpochResult


class Once:
    """A measurement or the like, done in a single epoch that has no value.

    Args:
        act: Does it.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self.finished = act, False

    def epoch(self) -> EpochResult:
        """Do it."""
        start = time.perf_counter()
        self._act()
        self.finished = True
        return EpochResult(1, 0.0, math.nan, time.perf_counter() - start)
