"""The hard budget: what a design may cost at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petlas.petl.design import Design
from petlas.spaces.errors import SpaceError


@dataclass(frozen=True)
class Limit:
    """The most of something that a design may cost.

    Args:
        name: What it is, as the configuration names it.
        most: Inclusive.
        cost: What a design costs; as for a budget it never falls when a placement is added or enlarged.
    """

    name: str
    most: float
    cost: Callable[[Design], float]


@dataclass(frozen=True)
class Budget:
    """A limit that no design may exceed; `Budget()` limits nothing.

    Args:
        limit: The largest cost allowed, inclusive; None for no limit.
        cost: The cost of a design, such as its trainable parameters. It need not add up over the placements, but
            must never fall when a placement is added or enlarged: every operation of a space relies on it.
        further: Limits of other costs.

    Raises:
        SpaceError: When the limit is no whole number of at least 0, or has no cost to limit.
    """

    limit: int | None = None
    cost: Callable[[Design], int] | None = None
    further: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if self.limit is None:
            return
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 0:
            raise SpaceError(f"a budget's limit must be a whole number of at least 0, got limit={self.limit!r}")
        if self.cost is None:
            raise SpaceError(f"a budget of limit={self.limit} needs the cost it limits: pass a function of a design")

    def allows(self, design: Design) -> bool:
        """Whether the design costs no more than the limits."""
        within = self.limit is None or self.cost is None or self.cost(design) <= self.limit
        return within and all(limit.cost(design) <= limit.most for limit in self.further)
