"""Candidates that the sampler draws are trained, and stopped early where they fall behind."""

from __future__ import annotations

from collections.abc import Iterator

from petlas.search.stages.base import Stage
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy


class Trials(Strategy):
    """Known strong designs first, then what the sampler draws, under asynchronous successive halving."""

    summary = "drawn candidates are trained, with successive halving"

    def stages(self, search: Search) -> Iterator[Stage]:
        """One stage of trainings."""
        yield search.training(draws=True)

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        """All trials to their end."""
        yield prices.trained("baselines and search", prices.bench.config.search.trials)
