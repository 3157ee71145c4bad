import json
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from petlas.petl import Design, tuned_state_dict
from petlas.search.run_folder import CHECKPOINTS
from petlas.search.stages.base import Proposal
from petlas.search.stages.supernet import SupernetRun, load_supernet
from petlas.search.stages.train import FoldStage, TrainStage, open_training, whole
from petlas.search.stages.training_run import TrainingRun
from petlas.search.strategies.base import Search
from petlas.search.study import BASELINE, FINALIST, FOLDS, SEARCH, candidate_of, design_of, entry_of
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Budget, Candidate

Bench = Callable[..., Workbench]
Searching = Callable[..., Search]
Start = Callable[..., TrainStage]


@pytest.fixture
def start(searching: Searching) -> Start:
    """The stage of trainings that draws."""
    return lambda **groups: searching(**groups).training(draws=True)


def finish(stage: TrainStage, proposal: Proposal, *vals: float) -> None:
    result = None
    for epoch, val in enumerate(vals, 1):
        result = EpochResult(epoch, 1.0, val, 0.1)
        if not stage.on_epoch(proposal.number, result):
            break
    stage.on_end(proposal.number, result)


def until_exhausted(stage: TrainStage, val: float = 0.5) -> Iterator[Proposal]:
    while not stage.exhausted():
        proposal = stage.begin(stage.propose())
        finish(stage, proposal, val, val)
        yield proposal


def design(proposal: Proposal) -> Design:
    return proposal.entry.candidate.design


def keys(stage: TrainStage) -> list[str]:
    return [entry.candidate.key for entry in stage.queued]


def test_a_space_is_tried_to_its_end_each_design_once(start: Start) -> None:
    stage = start()
    tried = [design(proposal) for proposal in until_exhausted(stage)]
    assert len(tried) == len(set(tried)) == stage.bench.space.count() == 9


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "evolution"])
def test_no_design_over_the_budget_is_proposed(start: Start, sampler: str) -> None:
    limit = 3 * 512
    stage = start(budget={"params": limit}, search={"sampler": sampler, "baselines": True, "trials": 99})
    bench, tried = stage.bench, [proposal.entry for proposal in until_exhausted(stage)]
    assert {entry.params for entry in tried} <= set(range(limit + 1))
    assert all(entry.params == bench.cost(entry.candidate.design) for entry in tried)
    inside = [design for design in bench.space.designs(Budget()) if bench.cost(design) <= limit]
    assert 0 < len(inside) < 9
    assert {entry.candidate.design for entry in tried} >= set(inside)


def test_trials_end_at_their_number_with_those_that_run_counted(start: Start) -> None:
    stage = start(search={"trials": 3})
    finish(stage, stage.begin(stage.propose()), 0.5, 0.5)
    finish(stage, stage.begin(stage.propose()), math.nan)
    assert not stage.exhausted()
    last = stage.begin(stage.propose())
    assert stage.exhausted()
    assert stage.running == 1
    finish(stage, last, 0.5, 0.5)
    assert stage.exhausted()


def test_after_the_time_only_queued_trials_start(searching: Searching) -> None:
    search = searching(search={"baselines": True})
    search.late = lambda: True
    stage = search.training(draws=True)
    waiting = len(stage.queued)
    stages = [proposal.entry.stage for proposal in until_exhausted(stage)]
    assert stages == ["baseline"] * waiting
    assert waiting > 3


def test_before_the_time_is_over_new_trials_start(searching: Searching) -> None:
    search = searching()
    search.late = lambda: False
    assert not search.training(draws=True).exhausted()


def test_the_baselines_are_queued_once_and_first_within_the_number_of_trials(start: Start) -> None:
    options = {"search": {"baselines": True, "trials": 3}}
    stage = start(**options)
    queued = keys(stage)
    assert len(queued) > 3
    assert [design(p).key for p in until_exhausted(stage)] == queued[:3]
    assert keys(start(**options)) == queued[3:]
    assert [design_of(t).key for t in stage.record.trials()] == queued[:3]


def test_a_baseline_that_the_space_has_is_not_drawn_again(start: Start) -> None:
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 8]}}, "depth": [0, 3, 6]}
    stage = start(space=space, search={"baselines": True, "trials": 200})
    space_of, queued = stage.bench.space, len(stage.queued)
    tried = [design(proposal) for proposal in until_exhausted(stage)]
    assert len(tried) == len(set(tried)) == queued + 1
    shared = [t for t in stage.record.trials() if design_of(t) in space_of and t.user_attrs["stage"] != "search"]
    assert len(shared) == 2  # the head alone, and LoRA of its default rank 8 everywhere
    assert all(t.params.keys() == space_of.distributions().keys() for t in shared)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("settings", [{}, {"settings": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}}])
def test_baselines_outside_the_space_count_alike_in_one_process_and_in_two(
    start: Start, sampler: str, settings: dict[str, Any]
) -> None:
    """What is drawn depends on the number of trials before it, whoever reads them."""
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}} | settings
    found = {}
    for name, parts in (("one", (12,)), ("two", (8, 10, 12))):
        for trials in parts:
            stage = start(name=name, space=space, search={"baselines": True, "sampler": sampler, "trials": trials})
            for number, _ in enumerate(until_exhausted(stage, 0.5)):
                assert number < 12
        found[name] = [trial.user_attrs["key"] for trial in stage.record.trials()]
        assert [trial.user_attrs["stage"] for trial in stage.record.trials()].count("baseline") == 7
    assert found["one"] == found["two"]
    assert len(set(found["one"])) == 12


def test_a_proposal_travels_as_plain_data(start: Start) -> None:
    proposal = start().propose()
    data = json.loads(json.dumps(proposal.to_config()))
    assert Proposal.from_config(data) == proposal
    assert Design.from_dict(data["entry"]["design"]) == design(proposal)
    params = proposal.entry.params
    assert (data["number"], data["entry"]["params"], data["entry"]["stage"]) == (proposal.number, params, "search")
    assert data["work"] == "train"


def test_the_worst_of_a_rung_stops_and_a_baseline_goes_on(start: Start) -> None:
    stage = start(search={"baselines": True, "grace_epochs": 1})
    first = EpochResult(1, 1.0, 0.9, 0.1)
    assert all(stage.on_epoch(stage.begin(stage.propose()).number, first) for _ in range(len(stage.queued)))
    assert not stage.queued
    low = EpochResult(1, 1.0, 0.1, 0.1)
    drawn = stage.begin(stage.propose())
    assert drawn.entry.stage == "search"
    assert not stage.on_epoch(drawn.number, low)
    assert stage.on_epoch(0, low)  # a baseline


def test_a_stopped_trial_counts_for_the_others_after_a_resume(start: Start) -> None:
    stage = start(search={"grace_epochs": 1})
    finish(stage, stage.begin(stage.propose()), 0.5, 0.6)
    finish(stage, stage.begin(stage.propose()), 0.3)
    again = start(search={"grace_epochs": 1})
    assert again.record.rung(1, but=99) == [0.5, 0.3]
    assert not again.on_epoch(again.begin(again.propose()).number, EpochResult(1, 1.0, 0.4, 0.1))


def test_a_trial_that_was_cut_off_goes_first_and_counts_at_the_rungs_it_had_reached(start: Start) -> None:
    """In whichever order trials are looked at afterwards."""
    stage = start(search={"grace_epochs": 1, "trials": 4}, train={"epochs": 3})
    cut = stage.begin(stage.propose())
    assert stage.on_epoch(cut.number, EpochResult(1, 1.0, 0.8, 0.1))
    again = start(search={"grace_epochs": 1, "trials": 4}, train={"epochs": 3})
    assert again.queued == (cut.entry,)
    first, other = again.begin(again.propose()), again.begin(again.propose())
    assert first.entry == cut.entry
    assert not again.on_epoch(other.number, EpochResult(1, 1.0, 0.7, 0.1))
    assert again.on_epoch(first.number, EpochResult(2, 1.0, 0.9, 0.2))
    assert again.record.trials()[first.number].intermediate_values == {1: 0.8, 2: 0.9}
    assert again.record.count_trained() == 2


def test_a_value_that_is_not_finite_ends_the_trial_unreported_and_it_fails(start: Start) -> None:
    stage = start()
    proposal = stage.begin(stage.propose())
    assert stage.on_epoch(proposal.number, EpochResult(1, 1.0, 0.5, 0.1))
    nothing = EpochResult(2, math.nan, math.nan, 0.2)
    assert not stage.on_epoch(proposal.number, nothing)
    stage.on_end(proposal.number, nothing)
    (trial,) = stage.record.trials()
    assert (trial.state, trial.intermediate_values) == (TrialState.FAIL, {1: 0.5})
    assert trial.user_attrs["error"] == "the loss is not finite"


def test_a_crash_fails_with_its_reason_even_after_all_epochs_and_is_logged(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    stage = start()
    proposal = stage.begin(stage.propose())
    with caplog.at_level(logging.INFO, "petlas"):
        stage.on_end(proposal.number, EpochResult(2, 1.0, 0.5, 0.1), "ValueError: boom")
    (trial,) = stage.record.trials()
    assert (trial.state, trial.user_attrs["error"]) == (TrialState.FAIL, "ValueError: boom")
    assert "boom" in caplog.text


def test_a_trial_that_never_ended_an_epoch_fails(start: Start) -> None:
    stage = start()
    stage.on_end(stage.begin(stage.propose()).number, None)
    assert stage.record.trials()[0].state == TrialState.FAIL


def test_a_trial_says_on_how_many_images_it_was_measured_and_where_it_ran(start: Start) -> None:
    stage = start()
    number = stage.begin(stage.propose()).number
    stage.on_end(number, EpochResult(2, 1.0, 0.5, 0.1), device="cpu")
    attributes = stage.record.trials()[number].user_attrs
    assert (attributes["images"], attributes["device"]) == (200, "cpu")


def test_what_failed_by_its_own_fault_is_tried_again_where_that_is_asked_for(start: Start) -> None:
    """Also when the search has all its trials; what is tried again is no further trial."""
    stage = start(search={"trials": 3})
    for vals in ((0.3, 0.3), (math.nan,), (0.4, 0.4)):
        finish(stage, stage.begin(stage.propose()), *vals)
    assert start(search={"trials": 3}).exhausted()
    failed = entry_of(stage.record.trials()[1])

    again = start(search={"trials": 3, "retry_failed": True})
    assert again.queued == (failed,)
    assert [proposal.entry for proposal in until_exhausted(again, 0.9)] == [failed]
    assert [t.state.name for t in again.record.trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert again.record.count_trained() == 3
    best = again.record.best()
    assert best is not None
    assert candidate_of(best) == failed.candidate
    assert start(search={"trials": 3, "retry_failed": True}).exhausted()

    more = start(search={"trials": 5, "retry_failed": True})
    tried = [entry_of(t) for t in (more.record.trials())] + [p.entry for p in until_exhausted(more)]
    assert len({entry.identity for entry in tried}) == 5


# Folds


def searched(searching: Searching, vals: dict[int, float], **protocol: Any) -> Search:
    """A search with as many trials, of whole trainings with these values."""
    search = searching(
        protocol={"folds": 3, "finalists": 2} | protocol, search={"trials": len(vals), "grace_epochs": 2}
    )
    stage = search.training(draws=True)
    for val in vals.values():
        finish(stage, stage.begin(stage.propose()), val, val)
    return search


def test_the_finalists_are_measured_on_every_fold_candidate_by_candidate(searching: Searching) -> None:
    search = searched(searching, {0: 0.3, 1: 0.8, 2: 0.7})
    stage = FoldStage(search.bench, search.record)
    leaders = [candidate_of(t) for t in search.record.leaders(2)]
    assert [(e.candidate, e.fidelity, e.stage) for e in stage.queued] == [
        (candidate, Fidelity(2, 0, fold, 3), FOLDS) for candidate in leaders for fold in range(3)
    ]
    tried = list(until_exhausted(stage))
    assert len(tried) == 6
    assert search.record.count_trained() == 3
    assert sum(t.user_attrs["images"] for t in search.record.counted(FOLDS)) == 2 * 1000
    assert FoldStage(search.bench, search.record).exhausted()


def test_folds_are_never_halved_and_heed_neither_the_clock_nor_the_number_of_trials(searching: Searching) -> None:
    search = searched(searching, {0: 0.3, 1: 0.8})
    search.late = lambda: True
    stage = FoldStage(search.bench, search.record)
    for number in range(6):
        assert not stage.exhausted()
        finish(stage, stage.begin(stage.propose()), 0.9 - number / 10, 0.9)
    assert stage.exhausted()
    assert {t.state.name for t in search.record.counted(FOLDS)} == {"COMPLETE"}


def test_the_choice_is_by_the_pooled_value(searching: Searching) -> None:
    search = searched(searching, {0: 0.3, 1: 0.8, 2: 0.7})
    best = search.record.best()
    assert best is not None
    assert best.number == 1
    stage, worth = FoldStage(search.bench, search.record), {}
    while not stage.exhausted():
        proposal = stage.begin(stage.propose())
        worth.setdefault(proposal.entry.candidate, 0.1 if not worth else 0.9)
        finish(stage, proposal, 0.0, worth[proposal.entry.candidate])
    best = search.record.best()
    assert best is not None
    assert best.number == 2  # second on the selection split, first on the folds


def test_folds_that_were_cut_off_go_on_where_they_stood(searching: Searching) -> None:
    search = searched(searching, {0: 0.3, 1: 0.8})
    stage = FoldStage(search.bench, search.record)
    before = [stage.begin(stage.propose()) for _ in range(2)]
    finish(stage, before[0], 0.5, 0.5)
    again = searching(protocol={"folds": 3, "finalists": 2}, search={"trials": 2})
    rest = FoldStage(again.bench, again.record)
    assert rest.queued[0] == before[1].entry
    assert len(rest.queued) == 5
    assert again.training(draws=True).queued == ()  # a fold is none of its trials
    tried = [before[0].entry, *(proposal.entry for proposal in until_exhausted(rest))]
    assert len({entry.identity for entry in tried}) == len(tried) == 6


# Work


@pytest.fixture
def trained(bench: Bench) -> Callable[[bool], Workbench]:
    """A workbench with a trained supernet."""

    def trained(inherit: bool) -> Workbench:
        few = {"epochs": 1, "warmup_epochs": 0}
        found = bench(strategy="supernet", supernet=few, train=few | {"batch_size": 400}, search={"inherit": inherit})
        run = SupernetRun(found)
        while not run.finished:
            run.epoch()
        return found

    return trained


def test_the_supernets_weights_are_where_training_starts_if_the_run_says_so(
    trained: Callable[[bool], Workbench], lora: Callable[..., Design]
) -> None:
    design = lora(b0=1, b5=2)
    for inherit in (True, False):
        bench = trained(inherit)
        slices = load_supernet(bench).inherited(design)
        for stage, expected in ((FINALIST, inherit), (BASELINE, False)):
            work = open_training(bench, Proposal(0, whole(bench, Candidate(design), stage), "train"))
            assert isinstance(work, TrainingRun)
            state = tuned_state_dict(work.model)
            assert all(torch.equal(state[key], value) for key, value in slices.items()) is expected


def test_training_is_kept_in_the_run_folder(bench: Bench, lora: Callable[..., Design]) -> None:
    found = bench()
    proposal = Proposal(0, whole(found, Candidate(lora(b0=1)), SEARCH), "train")
    assert open_training(found, proposal).epoch().epoch == 1
    assert len(list((found.config.folder / CHECKPOINTS).iterdir())) == 1
    assert open_training(found, proposal).progress.epochs == 1  # type: ignore[attr-defined]
