"""Asynchronous successive halving: which trials go on.

The decision is a function of the recorded values alone, so it is the same after a resume, through Ray Tune and in
this process, and trials that must not be stopped (baselines) still count for the others. Source: Li et al., A System
for Massively Parallel Hyperparameter Tuning, 2020 (ASHA).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Halving:
    """Rungs at `grace`, `grace * reduction`, ... epochs, below `epochs`.

    Args:
        epochs: Epochs of a whole run.
        reduction: One in so many trials goes on at a rung.
        grace: Epochs of the first rung; by default the last two rungs below `epochs` are used.
    """

    epochs: int
    reduction: int = 3
    grace: int | None = None

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs after which a trial is looked at."""
        rung = self.grace or math.ceil(self.epochs / self.reduction**2)
        found = []
        while rung < self.epochs:
            found.append(rung)
            rung *= self.reduction
        return tuple(found)

    def keeps(self, epoch: int, value: float, others: Sequence[float]) -> bool:
        """Whether a trial goes on: at a rung it must be among the best 1 / `reduction` of all values seen there so far.

        Args:
            epoch: Of the trial.
            value: Its value after that epoch, the more the better.
            others: The other trials' values there.
        """
        if epoch not in self.rungs or not others:
            return True
        no_better = sum(other <= value for other in others)
        return no_better * self.reduction >= len(others) * (self.reduction - 1)  # whole numbers: nothing is rounded
