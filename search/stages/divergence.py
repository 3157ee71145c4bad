"""Which trainings have gone astray: told by their loss, in the first epochs, before they cost what others cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median_low

FEWEST = 3
"""Trainings that must be known before another one is held against them."""
_FACTOR = 2.0


def diverges(epoch: int, loss: float, usual: Sequence[float]) -> bool:
    """Whether a training need not go on: the median-loss rule.

    After its first epoch, its loss is twice the median of what others had then; or after a later one it is still above
    that median: it has learned less in several epochs than others in one. Of two in the middle the lower one counts,
    since half of a few may have gone astray, too. The others are of stages that are over, so that the answer does not
    depend on what runs beside.

    Args:
        epoch: From 1.
        loss: The mean training loss of that epoch.
        usual: What others had in their first epoch, trained for as many epochs in all.
    """
    if not math.isfinite(loss):
        return True
    if len(usual) < FEWEST:
        return False
    return loss > median_low(usual) * (_FACTOR if epoch == 1 else 1.0)
