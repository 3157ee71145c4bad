"""Designs are scored with the weights of a supernet, and the best are trained on their own (NOAH, 2022)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

from petlas.petl import Design
from petlas.search.config import SupernetConfig
from petlas.search.stages.base import Stage
from petlas.search.stages.score import ScoreStage
from petlas.search.stages.supernet import SupernetStage
from petlas.search.stages.train import TrainStage
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy
from petlas.search.strategies.recipes import portfolio
from petlas.search.study import FINALIST, RANKING, Entry, design_of

log = logging.getLogger("petlas")


class SupernetStrategy(Strategy):
    """A supernet of the whole space is trained; the sampler draws designs that it scores; the best are trained."""

    summary = "designs are scored with inherited weights, the best are trained"

    def stages(self, search: Search) -> Iterator[Stage]:
        """The supernet, the scores, and the trainings of finalists, of the ranking check and of the baselines."""
        yield from scoring(search)
        if check := _check(search):
            yield TrainStage(search.bench, search.record, check, late=search.late)
        yield search.training(_finalists(search), draws=False)

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        """A sandwich has several passes in a step."""
        search = prices.bench.config.search
        yield from scoring_costs(prices)
        yield prices.trained("baselines and finalists", known + search.finalists + search.ranking_check)


def scoring(search: Search) -> Iterator[Stage]:
    """The stages after which designs of the run's space have scores with inherited weights.

    Args:
        search: The search.
    """
    scores = ScoreStage(search.bench, search.record, search.proposer(search.designs_only()))
    yield SupernetStage(search.bench, needed=not scores.exhausted(), tick=search.late)
    yield scores


def scoring_costs(prices: Prices) -> Iterator[StageCost]:
    """What those stages cost.

    Args:
        prices: Of the run's work.
    """
    config, images = prices.bench.config, prices.images
    own, scores = config.supernet, config.search.scores
    seconds = own.epochs * images["train"] * prices.step * passes_in_a_step(own)
    yield prices.cost("supernet", 1, seconds, alone=True)
    yield prices.cost("scores", scores, scores * images["val"] * prices.forward)


def passes_in_a_step(own: SupernetConfig) -> int:
    """How many designs a step of the supernet trains.

    Args:
        own: How it is trained.
    """
    return 1 if own.sampling == "single" else 2 + own.random


def _check(search: Search) -> list[Entry]:
    """Designs spread over the scores, for the ranking check."""
    scored = search.record.scored()
    count = min(search.bench.config.search.ranking_check, len(scored))
    places = [round(i * (len(scored) - 1) / max(1, count - 1)) for i in range(count)]
    return search.entries((design_of(scored[place]) for place in places), RANKING)


def _finalists(search: Search) -> list[Entry]:
    """The best designs by score, and by what was trained to check the scores, as far as these rank.

    Where they were seen to rank no better than chance, it is the portfolio's first instead.
    """
    count, found = search.bench.config.search.finalists, search.record.agreement()
    if found is None or found.trusted:
        if (scale := search.record.score_scale) is not None:
            told = search.bench.objective.metric.format(scale.error)
            log.info("scores tell what a design is worth up to %s: with the checked ones they shortlist", told)
        return search.entries([design_of(trial) for trial in search.record.shortlist(count)], FINALIST)
    log.warning(
        "scores rank %d designs with Kendall's tau %.2f (95%% interval %.2f to %.2f), no better than chance: the best "
        "by score are not trained, but the first of the portfolio",
        *(len(found.points), found.tau, found.low, found.high),
    )
    return search.entries(itertools.islice(_known(search), count), FINALIST)


def _known(search: Search) -> Iterator[Design]:
    """The portfolio's designs in the space of the run, each once."""
    space, budget = search.designs_only(), search.bench.budget
    designs = ((r, r.design(space, budget)) for r in portfolio(space, search.bench.shape.name) if r.suits(space))
    yield from dict.fromkeys(design for recipe, design in designs if recipe.methods <= design.by_method.keys())
