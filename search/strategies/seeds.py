"""Designs that join the portfolio of `auto` where the run asks for them: of the sensitivity, or of a supernet's scores.

What it takes to find them is part of what the search may cost. Off by default.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from petlas.petl import Design
from petlas.search.stages.base import Stage
from petlas.search.strategies.base import Prices, Search, StageCost
from petlas.search.strategies.supernet import passes_in_a_step, scoring, scoring_costs
from petlas.search.study import design_of, passes
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")

_MOST = 0.5
"""A supernet may take so much of what the search may cost."""
_GRADIENTS = 1.5
"""The cost of a pass with the gradients of all weights, by that of one with those of what is inserted."""


def seed_price(bench: Workbench) -> float:
    """What it takes to find seeds, in R; nothing where none are asked for, or a supernet would take too much.

    Args:
        bench: The run's workbench.
    """
    config, price = bench.config, _asked(bench)
    return 0.0 if config.search.seed_designs == "supernet" and price > _MOST * config.search.cost else price


def seed_stages(search: Search) -> Iterator[Stage]:
    """The stages that come before; the sensitivity is measured before all of them.

    Args:
        search: The search.
    """
    config, price = search.bench.config.search, _asked(search.bench)
    if config.seed_designs != "supernet":
        return
    if not seed_price(search.bench):
        log.warning(
            "a supernet would take %.1f R, more than half of search.cost=%g: nothing is scored; "
            "raise that, or lower supernet.epochs or search.scores",
            *(price, config.cost),
        )
        return
    yield from scoring(search)


def seed_costs(prices: Prices) -> Iterator[StageCost]:
    """What those stages cost.

    Args:
        prices: Of the run's work.
    """
    if prices.bench.config.search.seed_designs == "supernet" and seed_price(prices.bench):
        yield from scoring_costs(prices)


def seeds(search: Search) -> list[Design]:
    """The designs, the best first, when what they need was measured.

    Args:
        search: The search.
    """
    config = search.bench.config.search
    if config.seed_designs == "supernet":
        return [design_of(trial) for trial in search.record.shortlist(config.finalists)]
    return search.sensitive()


def _asked(bench: Workbench) -> float:
    config, train, val = bench.config, len(bench.task.views["train"]), len(bench.task.views["val"])
    one = passes(config.train.epochs, train, val)
    if config.search.seed_designs == "sensitivity":
        looked_at = min(train, config.sensitivity.batches * config.sensitivity.batch_size)
        return _GRADIENTS * looked_at / one
    if config.search.seed_designs == "supernet":
        learned = config.supernet.epochs * train * passes_in_a_step(config.supernet)
        return (learned + passes(config.search.scores, 0, val)) / one
    return 0.0
