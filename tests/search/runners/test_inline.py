import logging
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from study_cases import by_size, record_of, searched

from petlas.datasets import DataError
from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.reports.study_report import StudyReport
from petlas.search.stages.base import SearchStopped
from petlas.search.stages.halving import Halving
from petlas.search.stages.packed import PackedRuns
from petlas.search.study import StudyRecord, design_of, is_interrupted
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]


def states(record: StudyRecord) -> list[str]:
    return [trial.state.name for trial in record.trials()]


def untimed(record: StudyRecord) -> dict[str, Any]:
    """The study without the clock."""
    data = StudyReport.of(record).to_dict()
    for row in data["trials"]:
        row.pop("seconds")
    return {"trials": data["trials"], "best": data["best"]["number"], "pareto": [r["number"] for r in data["pareto"]]}


def test_trials_that_fall_behind_are_pruned_and_the_others_complete(make: Make, training: Any) -> None:
    training.curve = by_size
    record = searched(make(train={"epochs": 9}))
    assert set(states(record)) == {"COMPLETE", "PRUNED"}
    for trial in record.trials():
        epochs = list(trial.intermediate_values)
        assert epochs == list(range(1, trial.user_attrs["epochs"] + 1))
        assert (trial.state == TrialState.COMPLETE) == (len(epochs) == 9)
        assert trial.state == TrialState.COMPLETE or len(epochs) in Halving(9).rungs
    best = record.best()
    assert best is not None
    assert sum(p.size or 0 for p in design_of(best).placements) == 4
    assert len(training.started) == len(set(training.started)) == 9


def test_nan_fails_and_the_search_goes_on(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: math.nan if design.placements and epoch == 2 else 0.5
    record = searched(make())
    assert sorted(states(record)) == ["COMPLETE"] + ["FAIL"] * 8
    assert len(training.started) == 9


def test_a_crash_fails_with_its_reason_and_the_search_goes_on(make: Make, training: Any) -> None:
    def crash(design: Design, epoch: int) -> float:
        if epoch == 2 and design.placements:
            raise MemoryError("too large")
        return 0.5

    training.curve = crash
    record = searched(make())
    failed = record.trials(TrialState.FAIL)
    assert len(failed) == 8
    for trial in failed:
        assert trial.user_attrs["error"] == "MemoryError: too large"
        assert trial.intermediate_values == {1: 0.5}
        assert trial.user_attrs["epochs"] == 1


def test_a_crash_while_the_model_is_built_fails_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr("petlas.search.runners.inline.open_work", refuse)
    record = searched(make(search={"trials": 2}))
    assert states(record) == ["FAIL", "FAIL"]
    assert record.trials()[0].user_attrs["error"] == "ValueError: no such layer"


@pytest.mark.parametrize("error", [DataError("image 7 is cut off"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("while_built", [True, False])
def test_a_fault_of_the_surroundings_stops_the_search_and_uses_no_trial(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, while_built: bool
) -> None:
    """However many trials were left; when it is mended, the search goes on as if nothing had been."""
    training.curve = by_size
    whole = untimed(searched(make(name="whole")))

    def fail(design: Design, epoch: int) -> float:
        if len(training.started) == 3 and epoch == 2:
            raise error
        return by_size(design, epoch)

    config = make(name="cut")
    training.started.clear()
    training.curve = fail
    if while_built:
        monkeypatch.setattr(
            "petlas.search.runners.inline.open_work",
            lambda *args: training(*args) if len(training.started) < 2 else (_ for _ in ()).throw(error),
        )
    with pytest.raises(SearchStopped, match=r"cut off|No space left"):
        search(config)
    record = record_of(config)
    assert states(record) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert is_interrupted(record.trials()[2])
    assert record.count_trained() == 2

    training.curve = by_size
    monkeypatch.setattr("petlas.search.runners.inline.open_work", training)
    again = untimed(searched(config))
    del again["trials"][2]
    assert [row | {"number": 0} for row in again["trials"]] == [row | {"number": 0} for row in whole["trials"]]


def test_an_interrupted_search_goes_on_where_it_stopped_and_ends_as_if_it_had_not_been(
    make: Make, training: Any
) -> None:
    training.curve = by_size
    whole = untimed(searched(make(name="whole", train={"epochs": 9})))

    def interrupt(design: Design, epoch: int) -> float:
        if len(training.started) == 4 and epoch == 2:
            raise KeyboardInterrupt
        return by_size(design, epoch)

    config = make(name="cut", train={"epochs": 9})
    training.started.clear()
    training.curve = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(config)
    before = [t for t in record_of(config).trials() if not is_interrupted(t)]
    assert len(before) == 3

    training.curve = by_size
    record = searched(config)
    assert record.trials()[:3] == before
    assert "RUNNING" not in states(record)
    assert states(record)[3] == "FAIL"
    assert training.started[3] == training.started[4]
    assert len(training.started) == len(set(training.started)) + 1 == 10
    cut = untimed(record)
    finished = [row | {"number": 0} for row in cut["trials"] if row["number"] != 3]
    assert finished == [row | {"number": 0} for row in whole["trials"]]
    best = record.best()
    assert best is not None
    assert best.values[0] == max(row["val"] for row in whole["trials"] if row["state"] == "COMPLETE")


def test_the_threads_are_those_of_the_configuration_and_afterwards_those_of_before(make: Make, training: Any) -> None:
    seen = []
    training.curve = lambda design, epoch: seen.append(torch.get_num_threads()) or 0.5
    before = torch.get_num_threads()
    search(make(resources={"cpus": 2}, search={"trials": 1}))
    assert seen == [2, 2]
    assert torch.get_num_threads() == before


class Hangs:
    """A trial whose second epoch takes forever."""

    def __init__(self, bench: Workbench, proposal: Any) -> None:
        self._epochs, self._done = proposal.tried.fidelity.epochs, 0

    @property
    def finished(self) -> bool:
        return self._done == self._epochs

    def epoch(self) -> EpochResult:
        self._done += 1
        if self._done == 2:
            time.sleep(60)
        return EpochResult(self._done, 1.0, 0.5, 0.1)


def test_a_trial_that_hangs_is_ended_and_fails_with_the_reason_and_the_search_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petlas.search.runners.inline.open_work", Hangs)
    record = searched(make(search={"trials": 2}, resources={"trial_timeout": 0.2}))
    assert states(record) == ["FAIL", "FAIL"]
    for trial in record.trials():
        assert "resources.trial_timeout=0.2 s" in trial.user_attrs["error"]
        assert trial.intermediate_values == {1: 0.5}
        assert not is_interrupted(trial)


def test_the_same_seed_gives_the_same_search_twice_and_another_seed_another(make: Make, few_digits: str) -> None:
    options = {
        "task": {"name": few_digits},
        "search": {"trials": 2, "sampler": "tpe"},
        "train": {"epochs": 1, "batch_size": 40},
    }
    first, again = (untimed(searched(make(name=name, **options))) for name in ("a", "b"))
    assert first == again
    other = untimed(searched(make(name="c", seed=1, **options)))
    assert [row["val"] for row in other["trials"]] != [row["val"] for row in first["trials"]]


def test_a_search_in_packs_killed_in_between_finds_what_it_finds_without(
    make: Make, few_digits: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three trials in packs of two: the last one is by itself, the others are cut off and begin again."""
    options = {"search": {"trials": 3}, "train": {"epochs": 1, "batch_size": 40, "amp": "off"}}
    options |= {"task": {"name": few_digits}}
    config = make(name="packed", resources={"pack": 2}, **options)
    alone, epoch, calls = untimed(searched(make(name="alone", **options))), PackedRuns.epoch, []

    def cut_off(self: PackedRuns) -> Any:
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return epoch(self)

    monkeypatch.setattr(PackedRuns, "epoch", cut_off)
    with caplog.at_level(logging.INFO, "petlas"), pytest.raises(KeyboardInterrupt):
        search(config)
    assert "in one pack each: trials 0, 1" in caplog.text
    record = searched(config)
    assert len(set(map(id, calls))) == 2 and [is_interrupted(trial) for trial in record.trials()[:2]] == [True] * 2
    found = [row for row in untimed(record)["trials"] if not is_interrupted(record.trials()[row["number"]])]
    for row, other in zip(found, alone["trials"], strict=True):
        assert row == other | {"number": row["number"], "val": pytest.approx(other["val"], abs=1e-5)}


def test_in_the_place_of_a_trial_that_was_stopped_another_joins_the_pack(
    make: Make, few_digits: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first trial is stopped after its first epoch; the third one goes on with the second."""
    options = {"search": {"trials": 3, "grace_epochs": 1}, "train": {"epochs": 2, "batch_size": 40, "amp": "off"}}
    options |= {"task": {"name": few_digits}}
    monkeypatch.setattr(Halving, "keeps", lambda self, epoch, value, others: epoch > 1 or bool(others))
    alone = untimed(searched(make(name="alone", **options)))
    with caplog.at_level(logging.INFO, "petlas"):
        found = untimed(searched(make(name="packed", resources={"pack": 2}, **options)))
    assert "in one pack each: trials 0, 1" in caplog.text and "in one pack each: trials 1, 2" in caplog.text
    for row, other in zip(found["trials"], alone["trials"], strict=True):
        assert row == other | {"val": pytest.approx(other["val"], abs=1e-5)}
    assert [row["state"] for row in found["trials"]] == ["PRUNED", "COMPLETE", "COMPLETE"]
