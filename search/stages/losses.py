"""How often work may be lost with its worker before that is held to be its own fault."""

from __future__ import annotations

MOST_LOSSES = 3
"""How often work whose worker dies is tried without getting any further before that is held to be its own fault."""


class Losses:
    """How often a piece of work was lost in a row without having got any further."""

    def __init__(self) -> None:
        self._count, self._reached = 0, 0

    def reach(self, epoch: int) -> None:
        """Take note of an epoch: whoever gets further than before begins its count anew.

        Args:
            epoch: Its number, from 1.
        """
        if epoch > self._reached:
            self._count, self._reached = -1, epoch

    def lose(self) -> int:
        """Count a loss, and give the count; the first one after an epoch more is none."""
        self._count += 1
        return self._count
