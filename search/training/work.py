"""What a trial does, whatever its kind: epochs, one after the other. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave: its number from 1, mean training loss, value on the selection view, seconds so far."""

    epoch: int
    loss: float
    val: float
    seconds: float


class Work(Protocol):
    """What a worker does for one trial, epoch by epoch."""

    @property
    def finished(self) -> bool:
        """Whether no further epoch is to come."""

    def epoch(self) -> EpochResult:
        """The next epoch."""
