import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from petlas.petl import Design
from petlas.search.stages.base import MOST_LOSSES, Proposal, Runner, SearchStopped, TrialStage
from petlas.search.strategies.base import Search
from petlas.search.study import Ending, Entry, is_interrupted
from petlas.search.training import EpochResult, Fidelity, Work
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


class Scripted:
    """A runner that ends every trial at once, or lets the surroundings fail."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def run(self, stage: TrialStage) -> None:
        while not stage.exhausted():
            number = stage.propose().number
            if self.fault:
                stage.on_fault(number, self.fault)
            else:
                stage.on_end(number, EpochResult(2, 1.0, 0.5, 0.1))

    def epochs(self, make: Callable[[Workbench], Work], bench: Workbench) -> Iterator[EpochResult]:
        yield from ()


@pytest.fixture
def toy(searching: Searching) -> Callable[..., Toy]:
    def toy(*designs: Design, **more: Any) -> Toy:
        search = searching()
        return Toy(search.bench, search.record, map(entry, designs), **more)

    return toy


def test_a_proposal_travels_as_plain_data(lora: Lora) -> None:
    candidate = Candidate(lora(b0=1, b5=2), (("lr", 3e-3), ("weight_decay", 0.1)))
    for fidelity in (Fidelity(3, 7), Fidelity(3, 7, 1, 5)):
        proposal = Proposal(4, Entry(candidate, fidelity, "folds", 99), "train")
        assert Proposal.from_config(json.loads(json.dumps(proposal.to_config()))) == proposal


def test_what_is_queued_goes_in_its_order_once_each_and_what_the_study_has_not_again(
    toy: Callable[..., Toy], lora: Lora
) -> None:
    designs = [lora(b0=2), lora(b0=1), lora(b0=2), lora(b5=1)]
    stage = toy(*designs)
    assert [e.candidate.design for e in stage.queued] == [lora(b0=2), lora(b0=1), lora(b5=1)]
    first = stage.propose()
    assert (first.number, first.entry, first.work) == (0, entry(lora(b0=2)), "train")
    stage.on_end(first.number, EpochResult(2, 1.0, 0.5, 0.1))
    assert [e.candidate.design for e in toy(*designs).queued] == [lora(b0=1), lora(b5=1)]


def test_what_was_cut_off_goes_first_in_its_own_stage_alone(
    toy: Callable[..., Toy], searching: Searching, lora: Lora
) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    stage.on_epoch(stage.propose().number, EpochResult(1, 1.0, 0.4, 0.1))
    stage.record.begin(entry(lora(b0=2), "score"), {}, {}, {})
    again = toy(lora(b5=1), lora(b0=1))
    assert [e.candidate.design for e in again.queued] == [lora(b0=1), lora(b5=1)]
    number = again.propose().number
    trial = again.record.trials()[number]
    assert trial.intermediate_values == {1: 0.4}
    assert is_interrupted(again.record.trials()[0])


def test_what_is_tried_again_goes_before_all(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1))
    stage.on_end(stage.propose().number, None, "its own fault")
    again = toy(lora(b5=1), lora(b0=1), again=stage.record.failed())
    assert [e.candidate.design for e in again.queued] == [lora(b0=1), lora(b5=1)]
    assert again.repeats
    again.propose()
    assert not again.repeats


def test_the_surroundings_stop_a_stage_and_use_no_trial(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    runner: Runner = Scripted("no space left on the disk")
    with pytest.raises(SearchStopped, match="no space left on the disk"):
        stage.run(runner)
    (trial,) = stage.record.trials()
    assert is_interrupted(trial)
    assert "error" not in trial.user_attrs
    assert stage.running == stage.record.count_trained() == 0
    again = toy(lora(b0=1), lora(b0=2))
    assert [e.candidate.design for e in again.queued] == [lora(b0=1), lora(b0=2)]
    again.run(Scripted())
    assert [t.state.name for t in again.record.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_the_first_fault_is_the_one_that_is_told(toy: Callable[..., Toy], lora: Lora) -> None:
    stage = toy(lora(b0=1), lora(b0=2))
    numbers = [stage.propose().number for _ in range(2)]
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
        proposal = stage.propose()
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
    first.on_lost(first.propose().number, "the worker died")
    first.propose()  # and the search is killed
    second = toy(lora(b0=1))
    second.on_lost(second.propose().number, "the worker died")
    assert second.queued == (entry(lora(b0=1)),)
    second.on_lost(second.propose().number, "the worker died")
    assert second.queued == ()
    assert second.record.count_trained() == 1


def test_a_sampler_learns_of_a_trial_whose_worker_died_once(searching: Searching) -> None:
    """The trial keeps its draw: the candidates that come after it are those that would have come."""
    found = {}
    for name, dies in (("calm", False), ("stormy", True)):
        search = searching(name=name)
        stage = Toy(search.bench, search.record, proposer=search.proposer(search.bench.space))
        keys = []
        for number in range(5):
            proposal = stage.propose()
            if dies and number == 2:
                stage.on_lost(proposal.number, "the worker died")
                assert stage.propose().entry == proposal.entry
                proposal = Proposal(proposal.number + 1, proposal.entry, proposal.work)
            keys.append(proposal.entry.candidate.key)
            stage.on_end(proposal.number, EpochResult(2, 1.0, 0.5, 0.1))
        found[name] = keys
    assert found["calm"] == found["stormy"]
