"""Designs are scored with the weights of a supernet, and the best are trained on their own (NOAH, 2022)."""

from __future__ import annotations

from collections.abc import Iterator

from petlas.search.stages.base import Stage
from petlas.search.stages.score import ScoreStage
from petlas.search.stages.supernet import SupernetStage
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy
from petlas.search.study import FINALIST, RANKING, Entry, design_of


class SupernetStrategy(Strategy):
    """A supernet of the whole space is trained; the sampler draws designs that it scores; the best are trained."""

    summary = "designs are scored with inherited weights, the best are trained"

    def stages(self, search: Search) -> Iterator[Stage]:
        """The supernet, the scores, and the trainings of finalists, of the ranking check and of the baselines."""
        scores = ScoreStage(search.bench, search.record, search.proposer(search.designs_only()))
        yield SupernetStage(search.bench, needed=not scores.exhausted(), tick=search.late)
        yield scores
        yield search.training(_finalists(search), draws=False)

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        """A sandwich has several passes in a step."""
        config, images = prices.bench.config, prices.images
        own, search = config.supernet, config.search
        passes = 1 if own.sampling == "single" else 2 + own.random
        yield prices.cost("supernet", 1, own.epochs * images["train"] * prices.step * passes, alone=True)
        yield prices.cost("scores", search.scores, search.scores * images["val"] * prices.forward)
        yield prices.trained("baselines and finalists", known + search.finalists + search.ranking_check)


def _finalists(search: Search) -> list[Entry]:
    """The best designs by score, and before them for the ranking check designs spread over the scores."""
    scored, settings = search.record.scored(), search.bench.config.search
    count = min(settings.ranking_check, len(scored))
    places = [round(i * (len(scored) - 1) / max(1, count - 1)) for i in range(count)]
    check = search.entries((design_of(scored[place]) for place in places), RANKING)
    return check + search.entries(map(design_of, scored[: settings.finalists]), FINALIST)
