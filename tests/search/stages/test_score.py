import logging
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from petlas.petl.design import Design
from petlas.search.stages.base import Proposal
from petlas.search.stages.score import ScoreStage, open_scoring
from petlas.search.stages.scoring import ScoringRun
from petlas.search.stages.supernet import SupernetRun
from petlas.search.strategies.base import Search
from petlas.search.study import SCORE, Entry, design_of
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

SPACE = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}
Scoring = Callable[..., ScoreStage]


@pytest.fixture
def scoring(searching: Callable[..., Search]) -> Scoring:
    """The stage of scores of a search with a supernet."""

    def scoring(name: str = "run", space: dict[str, Any] = SPACE, **search: Any) -> ScoreStage:
        settings = {"sampler": "evolution", "scores": 20} | search
        found = searching(name=name, strategy="supernet", space=space, search=settings, budget={"params": 6000})
        return ScoreStage(found.bench, found.record, found.proposer(found.designs_only()))

    return scoring


def worth(design: Design) -> float:
    return sum((p.size or 0) * (1 + (p.block or 0)) for p in design.placements) / 100


def score(stage: ScoreStage, most: int = 10**6) -> list[Design]:
    drawn: list[Design] = []
    while not stage.exhausted() and len(drawn) < most:
        proposal = stage.begin(stage.propose())
        assert (proposal.entry.stage, proposal.work) == (SCORE, "score")
        design = proposal.entry.candidate.design
        drawn.append(design)
        stage.on_end(proposal.number, EpochResult(1, 0.0, worth(design), 0.1))
    return drawn


@pytest.mark.parametrize("sampler", ["evolution", "random", "tpe", "nsga2"])
def test_designs_are_scored_once_each_within_the_budget_and_the_study_has_them(scoring: Scoring, sampler: str) -> None:
    stage = scoring(sampler=sampler, objectives=["accuracy", "params"])
    bench, drawn = stage.bench, score(stage)
    assert len(drawn) == len(set(drawn)) == 20
    assert all(bench.cost(design) <= 6000 for design in drawn)
    trials = stage.record.trials()
    assert [design_of(t) for t in trials] == drawn
    for trial, design in zip(trials, drawn, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [worth(design), bench.cost(design)]
        assert trial.params == bench.space.params(design)
        assert (trial.user_attrs["stage"], trial.user_attrs["epochs"]) == (SCORE, 0)


def test_a_score_is_the_only_value_where_the_run_has_one_objective(scoring: Scoring) -> None:
    stage = scoring(scores=2)
    drawn = score(stage)
    assert [t.values for t in stage.record.trials()] == [[worth(design)] for design in drawn]


@pytest.mark.parametrize("sampler", ["evolution", "tpe"])
def test_scoring_that_is_cut_off_goes_on_with_what_it_would_have_proposed(scoring: Scoring, sampler: str) -> None:
    whole = score(scoring(sampler=sampler))
    first = scoring("other", sampler=sampler)
    before = score(first, 7)
    running = first.begin(first.propose())  # running when the process is killed
    again = scoring("other", sampler=sampler)
    assert again.queued == (running.entry,)
    after = score(again)
    assert before + after == whole
    assert not again.record.trials(TrialState.RUNNING, TrialState.WAITING)


def test_a_score_that_is_not_finite_fails_and_counts(scoring: Scoring) -> None:
    stage = scoring(scores=2)
    for val in (float("nan"), 0.5):
        stage.on_end(stage.begin(stage.propose()).number, EpochResult(1, 0.0, val, 0.1))
    assert stage.exhausted()
    assert [t.state.name for t in stage.record.trials()] == ["FAIL", "COMPLETE"]


def test_a_small_space_is_scored_to_its_end(scoring: Scoring) -> None:
    stage = scoring(space={"methods": {"lora": {"blocks": [0], "sizes": [0, 1, 2]}}})
    assert len(score(stage)) == 3
    assert stage.exhausted()


def test_designs_that_are_scored_have_no_settings(scoring: Scoring) -> None:
    """Inherited weights cannot tell learning rates apart."""
    stage = scoring(space=SPACE | {"settings": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}}, scores=3)
    assert stage.begin(stage.propose()).entry.candidate.settings == ()


def test_every_fifty_scores_the_best_is_told(
    scoring: Scoring, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    stage = scoring(sampler="random", scores=55)
    with caplog.at_level(logging.INFO, "petlas"):
        score(stage)
    assert caplog.text.count("scored 50 of 55 designs  best ") == 1


def test_a_score_is_one_measured_epoch(bench: Callable[..., Workbench], lora: Callable[..., Design]) -> None:
    few = {"epochs": 1, "warmup_epochs": 0}
    found = bench(strategy="supernet", supernet=few, train=few | {"batch_size": 400})
    SupernetRun(found).epoch()
    work = open_scoring(found, Proposal(0, Entry(Candidate(lora(b0=1)), Fidelity(0, 0), SCORE, 512), "score"))
    assert isinstance(work, ScoringRun)
    assert not work.finished
    result = work.epoch()
    assert work.finished
    assert 0 <= result.val <= 1
    assert result.seconds > 0
