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
        correct: After the last epoch, which images of the selection view are told right: see
            `petlas.search.selection.bits`. Empty before it, and where that is not what the metric counts.
    """

    epoch: int
    loss: float
    val: float
    seconds: float
    parts: int = 1
    correct: str = ""


class Work(Protocol):
    """What a worker does for one trial, epoch by epoch."""

    @property
    def finished(self) -> bool:
        """Whether no further epoch is to come."""

    def epoch(self) -> EpochResult:
        """The next epoch."""
