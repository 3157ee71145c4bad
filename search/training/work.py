"""What a trial does, whatever its kind: epochs, one after the other. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Args:
        epoch: Its number, from 1.
        loss: The mean over training.
        val: The value on the selection view.
        seconds: What the work took so far.
        parts: In how many parts the gradients of a batch were added up, for want of memory.
    """

    epoch: int
    loss: float
    val: float
    seconds: float
    parts: int = 1


class Work(Protocol):
    """What a worker does for one trial, epoch by epoch."""

    @property
    def finished(self) -> bool:
        """Whether no further epoch is to come."""

    def epoch(self) -> EpochResult:
        """The next epoch."""
