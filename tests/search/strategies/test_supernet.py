from collections.abc import Callable
from typing import Any

import pytest

from petlas.petl import Design
from petlas.search.stages.score import ScoreStage
from petlas.search.stages.supernet import SupernetStage
from petlas.search.stages.train import TrainStage
from petlas.search.strategies.base import Prices, Search
from petlas.search.strategies.recipes import portfolio
from petlas.search.strategies.supernet import SupernetStrategy
from petlas.search.study import FINALIST, RANKING, SCORE, StudyRecord, design_of
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

SPACE = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}
Searching = Callable[..., Search]


@pytest.fixture
def searching(bench: Callable[..., Workbench]) -> Searching:
    def searching(**search: Any) -> Search:
        settings = {"sampler": "evolution", "scores": 20, "finalists": 3, "ranking_check": 5} | search
        found = bench(strategy="supernet", space=SPACE, search=settings, budget={"params": 6000})
        found.config.folder.mkdir(parents=True, exist_ok=True)
        return Search(found, StudyRecord.create(found.config.folder))

    return searching


def worth(design: Design) -> float:
    return sum((p.size or 0) * (1 + (p.block or 0)) for p in design.placements) / 100


def score(stage: ScoreStage) -> None:
    while not stage.exhausted():
        proposal = stage.begin(stage.propose())
        stage.on_end(proposal.number, EpochResult(1, 0.0, worth(proposal.entry.candidate.design), 0.1))


def train(stage: TrainStage, value: Callable[[Design], float]) -> None:
    while not stage.exhausted():
        proposal = stage.begin(stage.propose())
        stage.on_end(proposal.number, EpochResult(2, 1.0, value(proposal.entry.candidate.design), 0.1))


def test_the_supernet_is_trained_before_the_scores_and_not_for_nothing(searching: Searching) -> None:
    supernet, scores, *_ = SupernetStrategy().stages(searching())
    assert isinstance(supernet, SupernetStage)
    assert not supernet.exhausted()
    score(scores)  # type: ignore[arg-type]
    supernet, scores, *_ = SupernetStrategy().stages(searching())
    assert supernet.exhausted()
    assert scores.exhausted()


def test_the_best_by_score_and_designs_spread_over_the_scores_are_trained(searching: Searching) -> None:
    search = searching()
    stages = SupernetStrategy().stages(search)
    next(stages)
    scores = next(stages)
    assert isinstance(scores, ScoreStage)
    score(scores)
    by_score = [design_of(t) for t in search.record.scored()]
    assert [worth(design) for design in by_score] == sorted(map(worth, by_score), reverse=True)
    queued = []
    for stage in stages:
        assert isinstance(stage, TrainStage)
        *_, resumed = SupernetStrategy().stages(searching())
        assert isinstance(resumed, TrainStage)
        if queued:  # else what is resumed has the ranking check before it
            assert resumed.queued == stage.queued
        queued += [(entry.stage, entry.candidate.design) for entry in stage.queued]
        train(stage, worth)
    assert [d for stage, d in queued if stage == RANKING] == [by_score[i] for i in (0, 5, 10, 14, 19)]
    assert [d for stage, d in queued if stage == FINALIST] == by_score[1:3]
    assert [design_of(t) for t in search.record.trained()] == [design for _, design in queued]
    best = search.record.best()
    assert best is not None
    assert best.user_attrs["stage"] in (RANKING, FINALIST)
    assert search.record.count_trained() == len(queued)
    assert len(search.record.counted(SCORE)) == 20


def test_scores_that_rank_no_better_than_chance_shortlist_nothing(searching: Searching, caplog: Any) -> None:
    search = searching()
    stages = SupernetStrategy().stages(search)
    next(stages)
    score(next(stages))  # type: ignore[arg-type]
    by_score = [design_of(t) for t in search.record.scored()]
    train(next(stages), lambda design: 0.5 + 0.1 * (by_score.index(design) % 10 == 0))  # type: ignore[arg-type]
    training = next(stages)
    assert isinstance(training, TrainStage)
    finalists = [entry.candidate.design for entry in training.queued if entry.stage == FINALIST]
    recipe = next(recipe for recipe in portfolio(search.bench.space) if recipe.suits(search.bench.space))
    assert finalists[0] == recipe.design(search.bench.space, search.bench.budget)
    assert not set(finalists) & set(by_score[:3])
    assert "no better than chance: the best by score are not trained, but the first of the portfolio" in caplog.text


def test_a_checked_design_that_was_scored_too_high_is_not_on_the_shortlist(searching: Searching, caplog: Any) -> None:
    caplog.set_level("INFO", "petlas")
    search = searching(ranking_check=12)
    stages = SupernetStrategy().stages(search)
    next(stages)
    score(next(stages))  # type: ignore[arg-type]
    by_score = [design_of(t) for t in search.record.scored()]
    train(next(stages), lambda d: 0.75 if d == by_score[0] else 0.6 + worth(d))  # type: ignore[arg-type]
    training = next(stages)
    assert isinstance(training, TrainStage)
    again = search.record.shortlist(3)
    finalists = [entry.candidate.design for entry in training.queued if entry.stage == FINALIST]
    checked = [design_of(trial) for trial in search.record.counted(RANKING)]
    assert finalists == [design for trial in again if (design := design_of(trial)) not in checked]
    assert by_score[0] not in map(design_of, again)
    train(training, worth)
    assert search.record.shortlist(3) == again  # a search that goes on has the same
    assert "scores tell what a design is worth up to" in caplog.text


def test_a_sandwich_costs_several_passes_in_a_step(searching: Searching) -> None:
    prices = Prices(searching().bench, 0.03, 0.01, {"train": 800, "val": 200})
    names = [cost.stage for cost in SupernetStrategy().costs(prices, 7)]
    assert names == ["supernet", "scores", "baselines and finalists"]
