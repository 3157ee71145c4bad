"""Candidates drawn at random."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from petlas.search.samplers.feasible import FeasibleSampler
from petlas.spaces import Budget, Space


class Random(FeasibleSampler):
    """Draws every candidate anew, within the budget and without repetitions.

    Args:
        space: The space.
        budget: The hard budget.
        seed: The seed.

    Raises:
        SpaceError: When no design of the space fits the budget.
    """

    def __init__(self, space: Space, budget: Budget, seed: int) -> None:
        super().__init__(RandomSampler, space, budget, seed)
