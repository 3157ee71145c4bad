import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from petlas.petl import Design
from petlas.search.stages.base import NOT_BEGUN, Chore, Proposal, TrialStage
from petlas.search.stages.losses import MOST_LOSSES
from petlas.search.strategies.base import Search
from petlas.search.study import Ending, Entry, is_interrupted
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Searching = Callable[..., Search]
Lora = Callable[..., Design]


class Toy(TrialStage):
    """Trains its queue and then what is drawn, to the end."""

    work = "train"

    def owns(self, stage: str) -> bool:
        return stage == "toy"

    def entry(self, candidate: Candidate) -> Entry:
        return entry(candidate.design)

    def exhausted(self) -> bool:
        return bool(self.fault) or (self._proposer is None and not self.queued)

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        self._report(number, result.epoch, result.val)
        return True

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        self._close(number, Ending(result.epoch if result else 0, result.val if result else None, 0.1, error))


def entry(design: Design, stage: str = "toy") -> Entry:
    return Entry(Candidate(design), Fidelity(2, 0), stage, 512)


def run_to_its_end(stage: TrialStage, fault: str = "") -> None:
    """Ends every trial at once, or lets the surroundings fail."""
    while not stage.exhausted():
        number = stage.begin(stage.propose()).number
        if fault:
            stage.on_fault(number, fault)
        else:
            stage.on_end(number, EpochResult(2, 1.0, 0.5, 0.1))


@pytest.fixture
def toy(searching: Searching) -> Callable[..., Toy]:
    def toy(*designs: Design, **more: Any) -> Toy:
        search = searching()
        return Toy(search.bench, search.record, map(entry, designs), **more)

    return toy


def test_a_proposal_travels_as_plain_data(lora: Lora) -> None:
    candidate = Candidate(lora(b0=1, b5=2), (("lr", 3e-3), ("weight_decay", 0.1)))
    for fidelity in (Fidelity(3, 7), Fidelity(3, 7, 1, 5)):
        proposal = Proposal(4, Entry(candidate, fidelity, "folds", 99), "train", notes={"stamp": "7f", "score": {}})
        assert Proposal.from_config(json.loads(json.dumps(proposal.to_config()))) == proposal


def test_what_is_queued_goes_in_its_order_once_each_and_what_the_study_has_not_again(
    toy: Callable[..., Toy], lora: Lora
) -> None:
    designs = [lora(b0=2), lora(b0=1), lora(b0=2), lora(b5=1)]
    stage = toy(*designs)
    assert [e.candidate.design for e in stage.queued] == [lora(b0=2), lora(b0=1), lora(b5=1)]
    first = stage.begin(stage.propose())
    assert (first.number, first.entry, first.work) == (0, entry(lora(b0=2)), "train")
    stage.on_end(first.number, EpochResult(2, 1.0, 0.5, 0.1))
    assert [e.candidate.design for e in toy(*designs).queued] == [lora(b0=1), lora(b5=1)]


def test_what_was_cut_off_goes_first_in_its_own_stage_alone(
    toy: Callable[..., Toy], searching: Searching, lora: Lora
) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    stage.on_epoch(stage.begin(stage.propose()).number, EpochResult(1, 1.0, 0.4, 0.1))
    stage.record.begin(entry(lora(b0=2), "score"), {}, {}, {})
    again = toy(lora(b5=1), lora(b0=1))
    assert [e.candidate.design for e in again.queued] == [lora(b0=1), lora(b5=1)]
    number = again.begin(again.propose()).number
    trial = again.record.trials()[number]
    assert trial.intermediate_values == {1: 0.4}
    assert is_interrupted(again.record.trials()[0])


def test_what_is_tried_again_goes_before_all(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1))
    stage.on_end(stage.begin(stage.propose()).number, None, "its own fault")
    again = toy(lora(b5=1), lora(b0=1), again=stage.record.failed())
    assert [e.candidate.design for e in again.queued] == [lora(b0=1), lora(b5=1)]
    assert again.repeats
    again.begin(again.propose())
    assert not again.repeats


def test_the_surroundings_stop_a_stage_and_use_no_trial(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    run_to_its_end(stage, "no space left on the disk")
    assert stage.fault == "no space left on the disk"
    (trial,) = stage.record.trials()
    assert is_interrupted(trial)
    assert "error" not in trial.user_attrs
    assert stage.running == stage.record.count_trained() == 0
    again = toy(lora(b0=1), lora(b0=2))
    assert [e.candidate.design for e in again.queued] == [lora(b0=1), lora(b0=2)]
    run_to_its_end(again)
    assert [t.state.name for t in again.record.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_the_first_fault_is_the_one_that_is_told(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    numbers = [stage.begin(stage.propose()).number for _ in range(2)]
    for number, message in zip(numbers, ("the cause", "what followed"), strict=True):
        stage.on_fault(number, message)
    assert stage.fault == "the cause"
    assert all(is_interrupted(trial) for trial in stage.record.trials())


def test_a_trial_whose_worker_dies_is_tried_again_and_at_last_fails_with_the_reason(
    toy: Callable[..., Toy], lora: Lora, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    stage = toy(lora(b0=1), lora(b0=2))
    for time in range(1, MOST_LOSSES + 1):
        proposal = stage.begin(stage.propose())
        assert proposal.entry == entry(lora(b0=1))
        with caplog.at_level(logging.WARNING, "petlas"):
            stage.on_lost(proposal.number, "the worker died")
        assert ("it is tried again" in caplog.text) == (time < MOST_LOSSES)
        caplog.clear()
    assert [e.candidate.design for e in stage.queued] == [lora(b0=2)]
    *lost, failed = stage.record.trials()
    assert [is_interrupted(trial) for trial in lost] == [True, True]
    assert (failed.state.name, failed.user_attrs["error"]) == ("FAIL", f"the worker died, {MOST_LOSSES} times")
    assert not is_interrupted(failed)
    assert stage.record.count_trained() == 1
    assert toy(lora(b0=1)).exhausted()


def test_losses_are_counted_over_a_resume_and_interruptions_are_none(toy: Callable[..., Toy], lora: Lora) -> None:
    first = toy(lora(b0=1))
    first.on_lost(first.begin(first.propose()).number, "the worker died")
    first.begin(first.propose())  # and the search is killed
    second = toy(lora(b0=1))
    second.on_lost(second.begin(second.propose()).number, "the worker died")
    assert second.queued == (entry(lora(b0=1)),)
    second.on_lost(second.begin(second.propose()).number, "the worker died")
    assert second.queued == ()
    assert second.record.count_trained() == 1


def test_only_losses_after_which_nothing_more_was_learned_count(toy: Callable[..., Toy], lora: Lora) -> None:
    """Whoever kills workers all the time is not the candidate's fault."""
    stage = toy(lora(b0=1))
    for epoch in (1, 2):
        for learned in (epoch, 0, 0):
            number = stage.begin(stage.propose()).number
            if learned:
                stage.on_epoch(number, EpochResult(learned, 1.0, 0.4, 0.1))
            stage.on_lost(number, "the worker died")
    stage.on_lost(stage.begin(stage.propose()).number, "")  # as nothing against it
    assert stage.queued == (entry(lora(b0=1)),)
    stage.on_lost(stage.begin(stage.propose()).number, "the worker died")
    assert stage.record.trials()[-1].user_attrs["error"] == f"the worker died, {MOST_LOSSES} times"


def test_a_sampler_learns_of_a_trial_whose_worker_died_once(searching: Searching) -> None:
    """The trial keeps its draw: the candidates that come after it are those that would have come."""
    found = {}
    for name, dies in (("calm", False), ("stormy", True)):
        search = searching(name=name)
        stage = Toy(search.bench, search.record, proposer=search.proposer(search.bench.space))
        keys = []
        for number in range(5):
            proposal = stage.begin(stage.propose())
            if dies and number == 2:
                stage.on_lost(proposal.number, "the worker died")
                assert stage.begin(stage.propose()).entry == proposal.entry
                proposal = Proposal(proposal.number + 1, proposal.entry, proposal.work)
            keys.append(proposal.entry.candidate.key)
            stage.on_end(proposal.number, EpochResult(2, 1.0, 0.5, 0.1))
        found[name] = keys
    assert found["calm"] == found["stormy"]


def test_a_search_goes_on_with_the_same_candidates_where_a_later_one_had_begun_first(searching: Searching) -> None:
    """Workers take proposals in their own order, and the search may end between them."""
    calm, stormy = searching(name="calm"), searching(name="stormy")
    stage = Toy(calm.bench, calm.record, proposer=calm.proposer(calm.bench.space))
    keys = [stage.propose().tried.candidate.key for _ in range(5)]
    stage = Toy(stormy.bench, stormy.record, proposer=stormy.proposer(stormy.bench.space))
    proposals = [stage.propose() for _ in range(4)]
    ended = stage.begin(proposals[2])
    stage.on_end(ended.number, EpochResult(2, 1.0, 0.5, 0.1))
    stage.begin(proposals[3])  # and the search is killed
    stormy = searching(name="stormy")
    again = Toy(stormy.bench, stormy.record, proposer=stormy.proposer(stormy.bench.space))
    rest = [again.begin(again.propose()).tried.candidate.key for _ in range(4)]
    assert rest == [keys[3], keys[0], keys[1], keys[4]]


class Errand(Chore):
    work = "errand"


def test_what_trials_wait_for_is_done_once_and_nothing_of_it_is_in_the_study(bench: Callable[..., Workbench]) -> None:
    assert Errand(bench(), needed=False).exhausted()
    chore = Errand(bench(), needed=True)
    assert not chore.exhausted()
    proposal = chore.begin(chore.propose())
    assert proposal == Proposal(NOT_BEGUN, None, "errand")
    assert Proposal.from_config(json.loads(json.dumps(proposal.to_config()))) == proposal
    assert chore.exhausted()
    assert chore.on_epoch(NOT_BEGUN, EpochResult(1, 1.0, 0.5, 0.1))
    chore.on_end(NOT_BEGUN, EpochResult(1, 1.0, 0.5, 0.1))
    assert chore.exhausted()
    assert not chore.fault


def test_what_trials_wait_for_is_done_again_when_its_worker_dies_up_to_a_limit(
    bench: Callable[..., Workbench],
) -> None:
    chore = Errand(bench(), needed=True)
    for _ in range(MOST_LOSSES - 1):
        chore.propose()
        chore.on_lost(NOT_BEGUN, "the worker died")
        assert not chore.exhausted()
    chore.propose()
    with pytest.raises(RuntimeError, match=f"errand: the worker died, {MOST_LOSSES} times"):
        chore.on_lost(NOT_BEGUN, "the worker died")


def test_what_trials_wait_for_is_done_with_more_room_where_its_share_had_too_little_memory(
    bench: Callable[..., Workbench],
) -> None:
    chore = Errand(bench(), needed=True)
    assert not chore.propose().alone
    chore.on_starved(NOT_BEGUN, "the memory was full")
    assert not chore.exhausted()
    assert chore.propose().alone


def test_a_search_does_not_go_on_without_what_trials_wait_for(bench: Callable[..., Workbench]) -> None:
    chore = Errand(bench(), needed=True)
    chore.propose()
    with pytest.raises(RuntimeError, match="errand: ValueError: shapes"):
        chore.on_end(NOT_BEGUN, None, "ValueError: shapes")
    chore.on_fault(NOT_BEGUN, "no space left")
    assert chore.fault == "no space left"
    assert chore.exhausted()


def test_a_trial_that_waits_for_a_worker_is_not_in_the_study_and_counts(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    first, second = stage.propose(), stage.propose()
    assert (first.number, stage.waiting, stage.running) == (NOT_BEGUN, 2, 0)
    assert stage.record.trials() == []
    assert stage.begin(second).number == 0
    assert (stage.waiting, stage.running) == (1, 1)
    assert [t.state.name for t in stage.record.trials()] == ["RUNNING"]
    stage.on_fault(NOT_BEGUN, "no space left")  # `first` never began
    assert [t.state.name for t in stage.record.trials()] == ["RUNNING"]
