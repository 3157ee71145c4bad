"""Budgets go where the loss is most sensitive (SPT, 2023), and the designs that come of it are trained."""

from __future__ import annotations

from collections.abc import Iterator

from petlas.petl.design import Design
from petlas.search.sensitivity import budgets_of
from petlas.search.stages.base import Stage
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy
from petlas.search.study import SENSITIVITY


class SensitivityStrategy(Strategy):
    """The sensitivity of the weights is measured in seconds, and each budget is given to one design."""

    summary = "budgets go to the most sensitive weights, and these designs are trained"
    measures_sensitivity = True

    def stages(self, search: Search) -> Iterator[Stage]:
        """The designs of the budgets, and the baselines."""
        assert search.sensitivity is not None, "measures_sensitivity says that it is measured"
        designs = [Design.from_dict(allocated.design) for allocated in search.sensitivity.designs]
        yield search.training(search.entries(designs, SENSITIVITY), draws=False)

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        """One training for each budget."""
        yield prices.trained("baselines and sensitivity", known + len(budgets_of(prices.bench)))
