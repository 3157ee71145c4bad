from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.record import FINALIST, RANKING, SCORE, design_of
from petlas.search.scores import ScoreStage, enqueue_finalists
from petlas.search.session import Session
from petlas.search.training import EpochResult

Make = Callable[..., RunConfig]
SPACE = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}


@pytest.fixture
def session(make: Make) -> Callable[..., Session]:
    def session(**search: Any) -> Session:
        settings = {"sampler": "evolution", "scores": 20} | search
        session = Session(make(strategy="supernet", space=SPACE, search=settings, budget={"params": 6000}))
        session.config.folder.mkdir(parents=True, exist_ok=True)
        return session

    return session


def worth(design: Design) -> float:
    return sum((p.size or 0) * (1 + (p.block or 0)) for p in design.placements) / 100


def score(stage: ScoreStage, most: int = 10**6) -> list[Design]:
    drawn: list[Design] = []
    while not stage.exhausted() and len(drawn) < most:
        proposal = stage.propose()
        assert proposal.stage == SCORE
        drawn.append(proposal.design)
        stage.on_end(proposal.number, EpochResult(1, 0.0, worth(proposal.design), 0.1))
    return drawn


@pytest.mark.parametrize("sampler", ["evolution", "random", "tpe", "nsga2"])
def test_designs_are_scored_once_each_within_the_budget_and_the_study_has_them(
    session: Callable[..., Session], sampler: str
) -> None:
    own = session(sampler=sampler)
    drawn = score(ScoreStage(own))
    assert len(drawn) == len(set(drawn)) == 20
    assert all(own.cost(design) <= 6000 for design in drawn)
    trials = own.record.trials()
    assert [design_of(t) for t in trials] == drawn
    for trial, design in zip(trials, drawn, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [worth(design), own.cost(design)]
        assert trial.params == own.space.params(design)
        assert (trial.user_attrs["stage"], trial.user_attrs["epochs"]) == (SCORE, 0)


def test_scoring_that_is_cut_off_goes_on_with_what_it_would_have_proposed(session: Callable[..., Session]) -> None:
    whole = score(ScoreStage(session()))
    own = session()
    own.record.study  # noqa: B018
    other = session().config.model_copy(update={"name": "other"})
    cut = Session(other)
    other.folder.mkdir(parents=True)
    first = ScoreStage(cut)
    before = score(first, 7)
    first.propose()  # running when the process is killed
    again = Session(other)
    again.record.recover()
    after = score(ScoreStage(again))
    assert before + after == whole
    assert not again.record.trials(TrialState.RUNNING, TrialState.WAITING)


def test_a_score_that_is_not_finite_fails_and_counts(session: Callable[..., Session]) -> None:
    own = session(scores=2)
    stage = ScoreStage(own)
    for val in (float("nan"), 0.5):
        stage.on_end(stage.propose().number, EpochResult(1, 0.0, val, 0.1))
    assert stage.exhausted()
    assert [t.state.name for t in own.record.trials()] == ["FAIL", "COMPLETE"]


def test_the_best_by_score_and_designs_spread_over_the_scores_are_trained(session: Callable[..., Session]) -> None:
    own = session(finalists=3, ranking_check=5)
    score(ScoreStage(own))
    by_score = [design_of(t) for t in own.record.scored()]
    enqueue_finalists(own)
    enqueue_finalists(own)  # a resumed search
    queued = [(t.user_attrs["stage"], design_of(t)) for t in own.record.trials(TrialState.WAITING)]
    assert [d for stage, d in queued if stage == RANKING] == [by_score[i] for i in (0, 5, 10, 14, 19)]
    assert [d for stage, d in queued if stage == FINALIST] == by_score[1:3]
    tried = []
    while not own.exhausted():
        proposal = own.propose()
        tried.append(proposal.design)
        own.on_end(proposal.number, EpochResult(2, 1.0, 0.5, 0.1))
    assert tried == [design for _, design in queued]
    best = own.record.best()
    assert best is not None
    assert best.user_attrs["stage"] in (RANKING, FINALIST)
    assert own.record.count_finished() == len(queued)
