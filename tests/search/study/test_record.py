import math
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from petlas.petl.design import Design
from petlas.search.reports.study_report import StudyReport
from petlas.search.study import Ending, Entry, StudyRecord, candidate_of, entry_of, is_interrupted, row_of
from petlas.search.training.fidelity import Fidelity
from petlas.spaces import Candidate

Lora = Callable[..., Design]
ROW = {"number", "state", "stage", "design", "settings", "key", "params", "val", "epochs", "seconds"}
EPOCHS = 3


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    return StudyRecord.create(tmp_path)


def entry(design: Design, params: int = 10, stage: str = "search", **fidelity: Any) -> Entry:
    return Entry(Candidate(design), Fidelity(EPOCHS, 4, **fidelity), stage, params)


def begin(record: StudyRecord, design: Design, params: int = 10, stage: str = "search") -> int:
    return record.begin(entry(design, params, stage), {"x": 3}, {"x": IntDistribution(0, 9)}, {})


def run(record: StudyRecord, design: Design, *vals: float, params: int = 10, stage: str = "search") -> int:
    """A trial that reports those values."""
    number = begin(record, design, params, stage)
    for epoch, val in enumerate(vals, 1):
        record.report(number, epoch, val)
    record.finish(number, Ending(len(vals), vals[-1], 1.234))
    return number


def trial_of(record: StudyRecord, number: int) -> FrozenTrial:
    return record.trials()[number]


def test_a_trial_says_what_it_is_from_its_start(record: StudyRecord, lora: Lora) -> None:
    trial = trial_of(record, begin(record, lora(b0=2), 7, "baseline"))
    assert trial.user_attrs == {
        "design": lora(b0=2).to_dict(),
        "settings": {},
        "key": lora(b0=2).key,
        "params": 7,
        "stage": "baseline",
        "of_epochs": EPOCHS,
        "seed": 4,
        "fold": None,
        "folds": None,
    }
    assert (trial.state, trial.params) == (TrialState.RUNNING, {"x": 3})
    assert entry_of(trial) == entry(lora(b0=2), 7, "baseline")


def test_settings_are_part_of_what_a_trial_says_and_of_its_key(record: StudyRecord, lora: Lora) -> None:
    candidates = [Candidate(lora(b0=1), (("lr", lr),)) for lr in (1e-3, 3e-3)]
    for candidate in candidates:
        record.begin(Entry(candidate, Fidelity(EPOCHS, 0), "search", 5), {}, {}, {})
    assert [candidate_of(trial) for trial in record.trials()] == candidates
    assert len({trial.user_attrs["key"] for trial in record.trials()}) == 2
    assert [row_of(trial).settings for trial in record.trials()] == [{"lr": 1e-3}, {"lr": 3e-3}]


@pytest.mark.parametrize(
    ("objectives", "values"), [(("accuracy",), [0.3]), (("accuracy", "params"), [0.3, 10.0])], ids=["one", "two"]
)
def test_a_trial_of_all_epochs_is_complete_with_the_objectives(
    tmp_path: Path, lora: Lora, objectives: Sequence[str], values: list[float]
) -> None:
    record = StudyRecord.create(tmp_path, objectives=objectives)
    trial = trial_of(record, run(record, lora(b0=1), 0.1, 0.4, 0.3))
    assert trial.state == TrialState.COMPLETE
    assert trial.values == values
    assert trial.intermediate_values == {1: 0.1, 2: 0.4, 3: 0.3}
    assert (trial.user_attrs["epochs"], trial.user_attrs["seconds"]) == (3, 1.23)


def test_a_trial_that_was_stopped_early_is_pruned_with_its_intermediate_values(record: StudyRecord, lora: Lora) -> None:
    trial = trial_of(record, run(record, lora(b0=1), 0.1, 0.2))
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.1, 2: 0.2}
    assert record.best() is None


@pytest.mark.parametrize("val", [math.nan, math.inf, None])
@pytest.mark.parametrize("epochs", [2, EPOCHS])
def test_a_trial_without_a_number_failed_even_after_all_epochs(
    record: StudyRecord, lora: Lora, val: float | None, epochs: int
) -> None:
    number = begin(record, lora(b0=1))
    record.report(number, 1, 0.5)
    record.report(number, 2, math.nan)
    record.finish(number, Ending(epochs, val, 1.0, "boom"))
    trial = trial_of(record, number)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"] == "boom"
    assert trial.intermediate_values == {1: 0.5}


def test_a_failed_trial_has_the_epochs_that_it_reported(record: StudyRecord, lora: Lora) -> None:
    number = begin(record, lora(b0=1))
    record.report(number, 1, 0.5)
    record.finish(number, Ending(0, None, 0.0))
    row = row_of(trial_of(record, number))
    assert (row.state, row.epochs, row.val) == ("FAIL", 1, 0.5)


def test_a_finished_trial_stays_as_it_is(record: StudyRecord, lora: Lora) -> None:
    for number in (run(record, lora(b0=1), 0.1, 0.4, 0.3), run(record, lora(b0=2), 0.1)):
        before = trial_of(record, number)
        record.finish(number, Ending(3, None, 9.0, "late"))
        record.finish(number, Ending(3, 0.9, 9.0))
        record.report(number, 7, 0.9)
        record.lose(number)
        assert trial_of(record, number) == before


def test_a_repeated_report_counts_once(record: StudyRecord, lora: Lora) -> None:
    number = begin(record, lora(b0=1))
    record.report(number, 1, 0.5)
    record.report(number, 1, 0.5)
    assert trial_of(record, number).intermediate_values == {1: 0.5}


def test_an_interrupted_trial_fails_goes_first_and_hands_its_values_on(tmp_path: Path, lora: Lora) -> None:
    first = StudyRecord.create(tmp_path)
    done, cut = run(first, lora(b0=1), 0.1, 0.2, 0.3), begin(first, lora(b0=2), 7, "baseline")
    first.report(cut, 1, 0.5)

    record = StudyRecord.create(tmp_path)
    assert record.recover() == 1
    assert record.recover() == 0
    trial = trial_of(record, cut)
    assert (trial.state, is_interrupted(trial), trial.intermediate_values) == (TrialState.FAIL, True, {1: 0.5})
    assert trial_of(record, done).state == TrialState.COMPLETE
    assert record.count_trained() == 1
    assert record.cut_off() == [entry(lora(b0=2), 7, "baseline")]

    again = trial_of(record, record.begin(record.cut_off()[0], {}, {}, {}))
    assert again.number not in (done, cut)
    assert "interrupted" not in again.user_attrs
    assert again.intermediate_values == {1: 0.5}  # so that others are compared with it as if it had not been cut off
    assert record.cut_off() == []


def test_a_trial_that_is_interrupted_again_and_again_is_tried_once_more_each_time(
    record: StudyRecord, lora: Lora
) -> None:
    begin(record, lora(b0=2))
    for _ in range(3):
        assert record.recover() == 1
        (cut,) = record.cut_off()
        number = record.begin(cut, {}, {}, {})
    record.finish(number, Ending(EPOCHS, 0.5, 1.0))
    assert record.recover() == 0
    assert record.cut_off() == []
    assert [t.state.name for t in record.trials()] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


def test_what_a_trial_is_and_that_it_runs_is_one_line_of_the_journal(
    record: StudyRecord, lora: Lora, tmp_path: Path
) -> None:
    """So that no kill leaves a half described trial."""
    before = len((tmp_path / "study.journal").read_text().splitlines())
    begin(record, lora())
    assert len((tmp_path / "study.journal").read_text().splitlines()) == before + 1


def test_a_failure_of_its_own_is_not_tried_again_but_can_be(record: StudyRecord, lora: Lora) -> None:
    run(record, lora(b0=2), 0.1, math.nan)
    record.recover()
    assert record.cut_off() == []
    assert {key for key, *_ in record.known()} == {lora(b0=2).key}
    assert record.count_trained() == 1
    assert record.failed() == [entry(lora(b0=2))]
    run(record, lora(b0=2), 0.1, 0.2, 0.3)
    assert record.failed() == []
    assert record.count_trained() == 1


def test_a_worker_that_died_is_counted_and_a_search_that_was_killed_is_not(record: StudyRecord, lora: Lora) -> None:
    for why in ("the worker died", "", "the worker died"):
        record.lose(begin(record, lora(b0=2)), why)
    assert record.losses(entry(lora(b0=2))) == 2
    assert record.losses(entry(lora(b0=1))) == 0


def test_a_rung_holds_the_other_trials_that_reached_it_and_none_that_was_cut_off(
    record: StudyRecord, lora: Lora
) -> None:
    run(record, lora(b0=1), 0.1, 0.2, 0.3)
    run(record, lora(b0=2), 0.4)
    cut = begin(record, lora(b5=1))
    record.report(cut, 1, 0.9)
    record.recover()
    mine = begin(record, lora(b5=1))
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
    assert [t.values[0] for t in record.leaders(2)] == [0.5, 0.5]
    assert record.leaders(1)[0].number == small


def test_folds_decide_among_those_that_have_them(record: StudyRecord, lora: Lora) -> None:
    run(record, lora(b0=1), 0.1, 0.2, 0.9)
    better = run(record, lora(b0=2), 0.1, 0.2, 0.8)
    for design, vals in ((lora(b0=1), (0.5, 0.7)), (lora(b0=2), (0.7, 0.7))):
        for fold, val in enumerate(vals):
            number = record.begin(entry(design, stage="folds", fold=fold, folds=2), {}, {}, {})
            record.finish(number, Ending(EPOCHS, val, 1.0, more={"images": 100}))
    best = record.best()
    assert best is not None
    assert (best.number, best.values) == (better, [0.8])
    pooled = record.evidence().pooled(lora(b0=1).key)
    assert pooled is not None
    assert (pooled.value, pooled.images) == (pytest.approx(0.6), 200)
    assert record.count_trained() == 2
    assert [t.number for t in record.pareto()] == [0]


POINTS = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(0, 6)), max_size=12)


def holding(points: Sequence[tuple[float, int]]) -> StudyRecord:
    trials = [
        create_trial(
            values=[value],
            user_attrs=Entry(Candidate(Design((), f"b{number}")), Fidelity(1, 0), "search", params).attributes(),
        )
        for number, (value, params) in enumerate(points)
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s", directions=["maximize"])
    record = StudyRecord(storage, "s")
    record.trials = lambda *states: trials  # type: ignore[method-assign]
    return record


def point(trial: FrozenTrial) -> tuple[float, int]:
    return trial.values[0], trial.user_attrs["params"]


@given(POINTS)
def test_the_pareto_front_is_that_of_brute_force(points: list[tuple[float, int]]) -> None:
    def beaten(a: tuple[float, int]) -> bool:
        return any(b != a and b[0] >= a[0] and b[1] <= a[1] for b in points)

    front = [point(trial) for trial in holding(points).pareto()]
    assert front == sorted({p for p in points if not beaten(p)}, key=lambda p: p[1])


@given(POINTS.filter(bool))
def test_the_best_is_on_the_front(points: list[tuple[float, int]]) -> None:
    record = holding(points)
    best = record.best()
    assert best is not None
    assert point(best) == point(record.pareto()[-1])


def test_the_json_of_a_study_has_every_trial_the_best_and_the_front(record: StudyRecord, lora: Lora) -> None:
    run(record, lora(b0=1), 0.1, 0.2, 0.5, params=30)
    run(record, lora(b0=2), 0.4)
    run(record, lora(b5=1), math.nan)
    begin(record, lora(b0=1, b5=1))
    data = StudyReport.of(record).to_dict()
    assert set(data) == {"trials", "best", "pareto"}
    assert all(set(row) == ROW for row in data["trials"])
    assert [row["number"] for row in data["trials"]] == [0, 1, 2, 3]
    assert [row["state"] for row in data["trials"]] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert data["trials"][0] | {"seconds": 0} == {
        "number": 0,
        "state": "COMPLETE",
        "stage": "search",
        "design": lora(b0=1).to_dict(),
        "settings": {},
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
    assert StudyReport.of(record).to_dict() == {"trials": [], "best": None, "pareto": []}


def test_a_run_folder_that_was_renamed_keeps_its_trials(tmp_path: Path, lora: Lora) -> None:
    (tmp_path / "old").mkdir()
    run(StudyRecord.create(tmp_path / "old"), lora(b0=1), 0.1, 0.2, 0.5)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert len(StudyRecord.read(tmp_path / "new").trials()) == 1
    assert len(StudyRecord.create(tmp_path / "new").trials()) == 1


def test_runs_share_a_database_by_their_names(tmp_path: Path, lora: Lora) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    run(StudyRecord.create(tmp_path / "a", url), lora(b0=1), 0.1, 0.2, 0.5)
    assert StudyRecord.create(tmp_path / "b", url).trials() == []
    assert len(StudyRecord.read(tmp_path / "a", url).trials()) == 1
    with sqlite3.connect(tmp_path / "all.db") as database:
        assert database.execute("select count(*) from studies").fetchone() == (2,)


def test_less_is_better_where_the_metric_says_so(tmp_path: Path, lora: Lora) -> None:
    record = StudyRecord.create(tmp_path, maximize=False)
    run(record, lora(b0=1), 3.0, 2.0, 1.5)
    low = run(record, lora(b0=2), 3.0, 2.0, 0.5)
    best = record.best()
    assert best is not None
    assert best.number == low == record.leaders(1)[0].number
