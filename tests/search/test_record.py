import math
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from petlas.petl.design import Design
from petlas.search.record import StudyRecord, design_of, is_interrupted, row_of
from petlas.search.report import as_json

Lora = Callable[..., Design]
ROW = {"number", "state", "stage", "design", "key", "params", "val", "epochs", "seconds"}


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    return StudyRecord.in_folder(tmp_path)


def begin(record: StudyRecord, design: Design, params: int = 10, stage: str = "search") -> int:
    trial = record.study.ask()
    trial.suggest_int("x", 0, 9)
    record.describe(trial, design, params, stage, seed=4)
    return trial.number


def run(record: StudyRecord, design: Design, *vals: float, epochs: int = 3, params: int = 10) -> int:
    """A trial that reports those values, of a run of so many epochs."""
    number = begin(record, design, params)
    for epoch, val in enumerate(vals, 1):
        record.report(number, epoch, val)
    record.finish(number, len(vals), vals[-1], len(vals) == epochs, 1.234)
    return number


def trial_of(record: StudyRecord, number: int) -> FrozenTrial:
    return record.trials()[number]


def test_a_trial_says_what_it_is(record: StudyRecord, lora: Lora) -> None:
    attributes = trial_of(record, begin(record, lora(b0=2), 7, "baseline")).user_attrs
    assert attributes == {
        "design": lora(b0=2).to_dict(),
        "key": lora(b0=2).key,
        "params": 7,
        "stage": "baseline",
        "seed": 4,
        "folds": 1,
    }


def test_a_trial_of_all_epochs_is_complete_with_both_objectives(record: StudyRecord, lora: Lora) -> None:
    trial = trial_of(record, run(record, lora(b0=1), 0.1, 0.4, 0.3))
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [0.3, 10.0]
    assert trial.intermediate_values == {1: 0.1, 2: 0.4, 3: 0.3}
    assert (trial.user_attrs["epochs"], trial.user_attrs["seconds"]) == (3, 1.23)


def test_a_trial_that_was_stopped_early_is_pruned_with_its_intermediate_values(record: StudyRecord, lora: Lora) -> None:
    trial = trial_of(record, run(record, lora(b0=1), 0.1, 0.2))
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.1, 2: 0.2}
    assert not trial.values
    assert record.best() is None


@pytest.mark.parametrize("val", [math.nan, math.inf, None])
@pytest.mark.parametrize("complete", [True, False])
def test_a_trial_without_a_number_failed_even_after_all_epochs(
    record: StudyRecord, lora: Lora, val: float | None, complete: bool
) -> None:
    number = begin(record, lora(b0=1))
    record.report(number, 1, 0.5)
    record.report(number, 2, math.nan)
    record.finish(number, 2, val, complete, 1.0, "boom")
    trial = trial_of(record, number)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"] == "boom"
    assert trial.intermediate_values == {1: 0.5}


def test_a_failed_trial_has_the_epochs_that_it_reported(record: StudyRecord, lora: Lora) -> None:
    number = begin(record, lora(b0=1))
    record.report(number, 1, 0.5)
    record.finish(number, 0, None, False, 0.0)
    row = row_of(trial_of(record, number))
    assert (row.state, row.epochs, row.val) == ("FAIL", 1, 0.5)


def test_a_finished_trial_stays_as_it_is(record: StudyRecord, lora: Lora) -> None:
    for number in (run(record, lora(b0=1), 0.1, 0.4, 0.3), run(record, lora(b0=2), 0.1)):
        before = trial_of(record, number)
        record.finish(number, 3, None, False, 9.0, "late")
        record.finish(number, 3, 0.9, True, 9.0)
        record.report(number, 7, 0.9)
        assert trial_of(record, number) == before


def test_a_repeated_report_counts_once(record: StudyRecord, lora: Lora) -> None:
    number = begin(record, lora(b0=1))
    record.report(number, 1, 0.5)
    record.report(number, 1, 0.5)
    assert trial_of(record, number).intermediate_values == {1: 0.5}


def test_a_queued_design_comes_first_with_its_parameters_and_only_once(record: StudyRecord, lora: Lora) -> None:
    assert record.enqueue(lora(b0=1), 5, "baseline", 4, {"x": 3})
    assert not record.enqueue(lora(b0=1), 5, "baseline", 4, {"x": 3})
    trial = record.study.ask()
    assert design_of(trial) == lora(b0=1)
    assert trial.suggest_int("x", 0, 9) == 3
    assert not record.enqueue(lora(b0=1), 5, "baseline", 4, {})
    record.finish(trial.number, 1, 0.5, True, 1.0)
    assert not record.enqueue(lora(b0=1), 5, "baseline", 4, {})


def test_an_interrupted_trial_fails_and_its_design_is_tried_again(tmp_path: Path, lora: Lora) -> None:
    first = StudyRecord.in_folder(tmp_path)
    done, cut = run(first, lora(b0=1), 0.1, 0.2, 0.3), begin(first, lora(b0=2), 7, "baseline")
    first.report(cut, 1, 0.5)
    chosen = trial_of(first, cut).params

    record = StudyRecord.in_folder(tmp_path)
    assert record.recover() == 1
    trial = trial_of(record, cut)
    assert (trial.state, is_interrupted(trial), trial.intermediate_values) == (TrialState.FAIL, True, {1: 0.5})
    assert trial_of(record, done).state == TrialState.COMPLETE
    assert (record.count_finished(), record.count_running()) == (1, 0)

    again = record.study.ask()
    assert again.number not in (done, cut)
    assert design_of(again) == lora(b0=2)
    assert again.suggest_int("x", 0, 9) == chosen["x"]
    attributes = trial_of(record, again.number).user_attrs
    assert (attributes["params"], attributes["stage"], attributes["seed"]) == (7, "baseline", 4)
    assert "interrupted" not in attributes
    assert trial_of(record, again.number).intermediate_values == {}


def test_a_design_that_is_interrupted_again_and_again_is_queued_once(record: StudyRecord, lora: Lora) -> None:
    begin(record, lora(b0=2))
    for _ in range(3):
        assert record.recover() == 1
        assert record.recover() == 0
        assert len(record.trials(TrialState.WAITING)) == 1
        record.study.ask()
    record.finish(record.trials(TrialState.RUNNING)[0].number, 3, 0.5, True, 1.0)
    assert record.recover() == 0
    assert not record.trials(TrialState.WAITING)
    assert [t.state.name for t in record.trials()] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


def test_a_crash_in_the_middle_of_recovering_loses_no_design(
    record: StudyRecord, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(record, lora(b0=2))
    with monkeypatch.context() as patch:
        patch.setattr(record.study, "add_trial", lambda trial: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            record.recover()
    record.recover()
    assert [t.user_attrs["key"] for t in record.trials(TrialState.WAITING)] == [lora(b0=2).key]


def test_a_trial_that_was_cut_off_before_it_had_a_design_fails_and_is_listed(record: StudyRecord) -> None:
    record.study.ask()
    record.recover()
    assert [t.state for t in record.trials()] == [TrialState.FAIL]
    row = row_of(trial_of(record, 0))
    assert (row.design, row.key, row.val, row.epochs) == ({}, "", None, 0)


def test_a_trial_is_described_in_one_transaction_so_that_no_kill_leaves_it_half_described(
    record: StudyRecord, lora: Lora
) -> None:
    trial = record.study.ask()
    seen: list[int] = []
    event.listen(record.storage.engine, "commit", lambda connection: seen.append(trial.number))
    record.describe(trial, lora(), 10, "search", seed=4)
    assert seen == [trial.number]
    assert trial_of(record, trial.number).user_attrs.keys() == {"design", "key", "params", "stage", "seed", "folds"}


def test_a_trial_that_an_older_version_left_half_described_is_not_queued(record: StudyRecord, lora: Lora) -> None:
    trial = record.study.ask()
    trial.set_user_attr("design", lora().to_dict())
    trial.set_user_attr("key", lora().key)
    assert record.recover() == 1
    assert record.trials(TrialState.WAITING) == []


def test_a_failure_of_its_own_is_not_tried_again(record: StudyRecord, lora: Lora) -> None:
    run(record, lora(b0=2), 0.1, math.nan)
    record.recover()
    assert not record.trials(TrialState.WAITING)
    assert record.keys() == {lora(b0=2).key}
    assert record.count_finished() == 1


def test_a_rung_holds_the_other_trials_that_reached_it_and_none_that_was_cut_off(
    record: StudyRecord, lora: Lora
) -> None:
    run(record, lora(b0=1), 0.1, 0.2, 0.3)
    run(record, lora(b0=2), 0.4)
    cut = begin(record, lora(b5=1))
    record.report(cut, 1, 0.9)
    record.recover()
    mine = record.study.ask().number  # which was queued again
    record.report(mine, 1, 0.9)
    assert sorted(record.rung(1, but=mine)) == [0.1, 0.4]
    assert record.rung(2, but=mine) == [0.2]
    assert record.rung(4, but=mine) == []
    assert 0.9 in record.rung(1, but=0)


def test_the_best_is_the_most_accurate_then_the_smallest_then_the_first(record: StudyRecord, lora: Lora) -> None:
    run(record, lora(b0=1), 0.1, 0.2, 0.5, params=30)
    small = run(record, lora(b0=2), 0.1, 0.2, 0.5, params=20)
    run(record, lora(b5=1), 0.1, 0.2, 0.5, params=20)
    run(record, lora(b5=2), 0.9)
    run(record, lora(b0=1, b5=1), 0.1, 0.2, 0.4, params=1)
    best = record.best()
    assert best is not None
    assert best.number == small


POINTS = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(0, 6)), max_size=12)


def holding(points: Sequence[tuple[float, int]]) -> StudyRecord:
    trials = [
        create_trial(
            values=list(point),
            params={"x": 0},
            distributions={"x": IntDistribution(0, 1)},
            user_attrs={"stage": "search"},
        )
        for point in points
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    record = object.__new__(StudyRecord)
    record.trials = lambda *states: trials  # type: ignore[method-assign]
    return record


@given(POINTS)
def test_the_pareto_front_is_that_of_brute_force(points: list[tuple[float, int]]) -> None:
    def beaten(a: tuple[float, int]) -> bool:
        return any(b != a and b[0] >= a[0] and b[1] <= a[1] for b in points)

    front = [tuple(trial.values) for trial in holding(points).pareto()]
    assert front == sorted({point for point in points if not beaten(point)}, key=lambda point: point[1])


@given(POINTS.filter(bool))
def test_the_best_is_on_the_front(points: list[tuple[float, int]]) -> None:
    record = holding(points)
    best = record.best()
    assert best is not None
    assert best.values == record.pareto()[-1].values


def test_the_json_of_a_study_has_every_trial_the_best_and_the_front(record: StudyRecord, lora: Lora) -> None:
    run(record, lora(b0=1), 0.1, 0.2, 0.5, params=30)
    run(record, lora(b0=2), 0.4)
    run(record, lora(b5=1), math.nan)
    begin(record, lora(b0=1, b5=1))
    record.enqueue(lora(b5=2), 5, "baseline", 4, {})
    data: dict[str, Any] = as_json(record)
    assert set(data) == {"trials", "best", "pareto"}
    assert all(set(row) == ROW for row in data["trials"])
    assert [row["number"] for row in data["trials"]] == [0, 1, 2, 3, 4]
    assert [row["state"] for row in data["trials"]] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    assert data["trials"][0] | {"seconds": 0} == {
        "number": 0,
        "state": "COMPLETE",
        "stage": "search",
        "design": lora(b0=1).to_dict(),
        "key": lora(b0=1).key,
        "params": 30,
        "val": 0.5,
        "epochs": 3,
        "seconds": 0,
    }
    assert (data["trials"][1]["val"], data["trials"][1]["epochs"]) == (0.4, 1)
    assert data["trials"][2]["val"] is None
    assert data["best"] == data["trials"][0]
    assert data["pareto"] == [data["trials"][0]]


def test_an_empty_study_has_no_best(record: StudyRecord) -> None:
    assert as_json(record) == {"trials": [], "best": None, "pareto": []}


def test_a_run_folder_that_was_renamed_keeps_its_trials(tmp_path: Path, lora: Lora) -> None:
    (tmp_path / "old").mkdir()
    run(StudyRecord.in_folder(tmp_path / "old"), lora(b0=1), 0.1, 0.2, 0.5)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert len(StudyRecord.in_folder(tmp_path / "new").trials()) == 1


def test_runs_share_a_database_by_their_names(tmp_path: Path, lora: Lora) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    run(StudyRecord.in_folder(tmp_path / "a", url), lora(b0=1), 0.1, 0.2, 0.5)
    assert StudyRecord.in_folder(tmp_path / "b", url).trials() == []
    assert len(StudyRecord.in_folder(tmp_path / "a", url).trials()) == 1
    with sqlite3.connect(tmp_path / "all.db") as database:
        assert database.execute("select count(*) from studies").fetchone() == (2,)
