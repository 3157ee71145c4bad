import json
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from optuna.trial import TrialState

from petlas.petl.backbone import BackboneError
from petlas.petl.design import Design, DesignError
from petlas.search.config import RunConfig
from petlas.search.record import design_of
from petlas.search.session import Proposal, Session
from petlas.search.training import EpochResult
from petlas.spaces import Budget, SpaceError

Make = Callable[..., RunConfig]


@pytest.fixture
def start(make: Make) -> Callable[..., Session]:
    def start(**groups: Any) -> Session:
        session = Session(make(**groups))
        session.config.folder.mkdir(parents=True, exist_ok=True)
        session.start()
        return session

    return start


Start = Callable[..., Session]


def propose(session: Session) -> Proposal:
    return session.propose()


def finish(session: Session, proposal: Proposal, *vals: float) -> None:
    result = None
    for epoch, val in enumerate(vals, 1):
        result = EpochResult(epoch, 1.0, val, 0.1)
        if not session.on_epoch(proposal.number, result):
            break
    session.on_end(proposal.number, result)


def until_exhausted(session: Session, val: float = 0.5) -> Iterator[Proposal]:
    while not session.exhausted():
        proposal = propose(session)
        finish(session, proposal, val, val)
        yield proposal


def test_a_space_is_tried_to_its_end_each_design_once(start: Start) -> None:
    session = start()
    tried = [proposal.design for proposal in until_exhausted(session)]
    assert len(tried) == len(set(tried)) == session.space.count() == 9


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_no_design_over_the_budget_is_proposed(start: Start, sampler: str) -> None:
    limit = 3 * 512
    session = start(budget={"params": limit}, search={"sampler": sampler, "baselines": True, "trials": 99})
    tried = list(until_exhausted(session))
    assert {p.params for p in tried} <= set(range(limit + 1))
    assert all(p.params == session.cost(p.design) for p in tried)
    inside = [design for design in session.space.designs(Budget()) if session.cost(design) <= limit]
    assert 0 < len(inside) < 9
    assert {p.design for p in tried} >= set(inside)


def test_trials_end_at_their_number_with_those_that_run_counted(start: Start) -> None:
    session = start(search={"trials": 3})
    finish(session, propose(session), 0.5, 0.5)
    finish(session, propose(session), math.nan)
    assert not session.exhausted()
    last = propose(session)
    assert session.exhausted()
    finish(session, last, 0.5, 0.5)
    assert session.exhausted()


def test_after_the_time_only_queued_trials_start(start: Start) -> None:
    session = start(search={"seconds": 1e-9, "baselines": True})
    waiting = len(session.record.trials(TrialState.WAITING))
    stages = [session._stage(proposal.number) for proposal in until_exhausted(session)]
    assert stages == ["baseline"] * waiting
    assert waiting > 3


def test_before_the_time_is_over_new_trials_start(start: Start) -> None:
    assert not start(search={"seconds": 1e6}).exhausted()


def test_the_baselines_are_queued_once_and_first_within_the_number_of_trials(start: Start) -> None:
    session = start(search={"baselines": True, "trials": 3})
    queued = [design_of(t).key for t in session.record.trials(TrialState.WAITING)]
    assert len(queued) > 3
    assert [p.design.key for p in until_exhausted(session)] == queued[:3]
    session.start()
    assert [design_of(t).key for t in session.record.trials()] == queued


def test_a_baseline_that_the_space_has_is_not_drawn_again(start: Start) -> None:
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 8]}}, "depth": [0, 3, 6]}
    session = start(space=space, search={"baselines": True, "trials": 200})
    queued = len(session.record.trials(TrialState.WAITING))
    tried = [proposal.design for proposal in until_exhausted(session)]
    assert len(tried) == len(set(tried)) == queued + 1
    shared = [t for t in session.record.trials() if design_of(t) in session.space and t.user_attrs["stage"] != "search"]
    assert len(shared) == 2  # the head alone, and LoRA of its default rank 8 everywhere
    assert all(t.params.keys() == session.space.distributions().keys() for t in shared)


def test_a_proposal_travels_as_plain_data(start: Start) -> None:
    proposal = propose(start())
    data = json.loads(json.dumps(proposal.to_config()))
    assert Design.from_dict(json.loads(data["design"])) == proposal.design
    assert (data["number"], data["params"], data["stage"]) == (proposal.number, proposal.params, "search")


def test_the_worst_of_a_rung_stops_and_a_baseline_goes_on(start: Start) -> None:
    session = start(search={"baselines": True, "grace_epochs": 1})
    first = EpochResult(1, 1.0, 0.9, 0.1)
    assert all(session.on_epoch(propose(session).number, first) for _ in range(len(session.record.trials())))
    low = EpochResult(1, 1.0, 0.1, 0.1)
    drawn = propose(session)
    assert session._stage(drawn.number) == "search"
    assert not session.on_epoch(drawn.number, low)
    assert session.on_epoch(0, low)  # a baseline


def test_a_stopped_trial_counts_for_the_others_after_a_resume(start: Start) -> None:
    session = start(search={"grace_epochs": 1})
    finish(session, propose(session), 0.5, 0.6)
    finish(session, propose(session), 0.3)
    again = start(search={"grace_epochs": 1})
    assert again.record.rung(1, but=99) == [0.5, 0.3]
    assert not again.on_epoch(propose(again).number, EpochResult(1, 1.0, 0.4, 0.1))


def test_a_value_that_is_not_finite_ends_the_trial_unreported_and_it_fails(start: Start) -> None:
    session = start()
    proposal = propose(session)
    assert session.on_epoch(proposal.number, EpochResult(1, 1.0, 0.5, 0.1))
    nothing = EpochResult(2, math.nan, math.nan, 0.2)
    assert not session.on_epoch(proposal.number, nothing)
    session.on_end(proposal.number, nothing)
    (trial,) = session.record.trials()
    assert (trial.state, trial.intermediate_values) == (TrialState.FAIL, {1: 0.5})
    assert trial.user_attrs["error"] == "the loss is not finite"


def test_a_crash_fails_with_its_reason_even_after_all_epochs_and_is_logged(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    session = start()
    proposal = propose(session)
    with caplog.at_level(logging.INFO, "petlas"):
        session.on_end(proposal.number, EpochResult(2, 1.0, 0.5, 0.1), "ValueError: boom")
    (trial,) = session.record.trials()
    assert (trial.state, trial.user_attrs["error"]) == (TrialState.FAIL, "ValueError: boom")
    assert "boom" in caplog.text


def test_a_trial_that_never_ended_an_epoch_fails(start: Start) -> None:
    session = start()
    session.on_end(propose(session).number, None)
    assert session.record.trials()[0].state == TrialState.FAIL


@pytest.mark.parametrize(
    ("groups", "error", "match"),
    [
        ({"backbone": {"name": "vit_mni_patch16_64"}}, BackboneError, "did you mean vit_mini_patch16_64"),
        (
            {"budget": {"params": 3}, "space": {"methods": {"lora": {"blocks": "all", "sizes": [1]}}}},
            SpaceError,
            "least",
        ),
        ({"space": {"methods": {"lora": {"blocks": [6], "sizes": [0, 1]}}}}, SpaceError, "blocks 0 to 5"),
        ({"space": {"methods": {"adapter": {"blocks": "backbone", "sizes": [0, 1]}}}}, DesignError, "at blocks"),
        (
            {"space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 1], "options": {"x": 1}}}}},
            DesignError,
            "option",
        ),
    ],
)
def test_what_does_not_fit_the_backbone_is_refused_before_a_folder_is_made(
    make: Make, groups: dict[str, Any], error: type[Exception], match: str
) -> None:
    config = make(**groups)
    with pytest.raises(error, match=match):
        Session(config)
    assert not config.folder.exists()
