import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.petl.design import Design
from petlas.search.objectives import Metric
from petlas.search.reports.study_report import StudyReport, row_dict
from petlas.search.selection import Pooled
from petlas.search.study import (
    FOLDS,
    HALVING,
    RANKING,
    SCORE,
    SEARCH,
    BelievedRow,
    Ending,
    Entry,
    StudyRecord,
    TrialRow,
)
from petlas.search.training import Fidelity
from petlas.spaces import Candidate

ROW = {"number", "state", "stage", "design", "settings", "key", "params", "val", "epochs", "seconds"}


@pytest.fixture
def add(tmp_path: Path, lora: Callable[..., Design]) -> Callable[..., StudyRecord]:
    """Adds a finished trial to a study."""
    record = StudyRecord.create(tmp_path)

    def add(rank: int, value: float, stage: str = SEARCH, fold: int | None = None, **settings: float) -> StudyRecord:
        candidate = Candidate(lora(b0=rank), tuple(settings.items()))
        fidelity = Fidelity(2, 0, fold, None if fold is None else 2)
        number = record.begin(Entry(candidate, fidelity, stage, rank), {}, {}, {})
        more = {"images": 500, "device": "cpu"} if fold is not None else {"device": "cpu"}
        record.finish(number, Ending(2, value, 0.1, more=more))
        return record

    return add


def test_a_trial_is_plain_data_with_fold_and_device_where_they_are_known(row: Callable[..., TrialRow]) -> None:
    assert set(row_dict(row(0, "FAIL", None))) == ROW
    assert set(row_dict(row(0, "COMPLETE", 0.5, fold=0, device="cpu"))) == ROW | {"fold", "device"}


def test_a_study_is_its_trials_its_best_and_its_front(add: Callable[..., StudyRecord]) -> None:
    add(1, 0.5)
    add(2, 0.4)
    report = StudyReport.of(add(3, 0.7, lr=0.003))
    data = report.to_dict()
    assert set(data) == {"trials", "best", "pareto"}
    assert [trial["number"] for trial in data["trials"]] == [0, 1, 2]
    assert all(set(trial) == ROW | {"device"} for trial in data["trials"])
    assert (data["best"]["number"], data["best"]["settings"]) == (2, {"lr": 0.003})
    assert [trial["number"] for trial in data["pareto"]] == [0, 2]
    assert (report.metric.name, report.images) == ("accuracy", None)


def test_what_the_study_is_of_says_the_metric_and_the_images(add: Callable[..., StudyRecord]) -> None:
    record = add(1, 0.5)
    record.claim({"metric": Metric("mAP").to_dict(), "images": {"val": 200}})
    report = StudyReport.of(record)
    assert (report.metric, report.images) == (Metric("mAP"), 200)


def test_a_study_without_trials_has_no_best(tmp_path: Path) -> None:
    assert StudyReport.of(StudyRecord.create(tmp_path)).to_dict() == {"trials": [], "best": None, "pareto": []}


def test_the_evidence_for_scores_is_part_of_it(add: Callable[..., StudyRecord]) -> None:
    for i, value in enumerate([0.5, 0.7, 0.4, 0.6]):
        add(i + 1, i / 10, SCORE)
        record = add(i + 1, value, RANKING)
    data = StudyReport.of(record).to_dict()
    assert data["best"]["val"] == 0.7
    assert data["ranking"]["tau"] == pytest.approx(0.0)


def test_finalists_are_told_with_their_pooled_values_and_standard_errors(add: Callable[..., StudyRecord]) -> None:
    add(1, 0.5)
    add(2, 0.6)
    for rank, values in ((1, (0.8, 0.9)), (2, (0.7, 0.7))):
        for fold, value in enumerate(values):
            record = add(rank, value, FOLDS, fold)
    report = StudyReport.of(record)
    data = report.to_dict()
    assert [trial.get("fold") for trial in data["trials"]] == [None, None, 0, 1, 0, 1]
    first, second = data["folds"]
    assert (first["value"], first["images"], first["params"]) == (pytest.approx(0.85), 1000, 1)
    assert first["error"] == pytest.approx(math.sqrt(0.85 * 0.15 / 1000))
    assert second["value"] == pytest.approx(0.7)
    assert data["best"]["params"] == 1


def test_how_often_the_images_were_dealt_anew_is_told_of_trials_on_folds(
    add: Callable[..., StudyRecord], lora: Callable[..., Design]
) -> None:
    record = add(1, 0.5)
    for repeat in (0, 1):
        number = record.begin(Entry(Candidate(lora(b0=1)), Fidelity(2, 0, 1, 2, repeat), FOLDS, 1), {}, {}, {})
        record.finish(number, Ending(2, 0.5, 0.1, more={"images": 500}))
    report = StudyReport.of(record)
    assert [row.get("repeat") for row in report.to_dict()["trials"]] == [None, 0, 1]
    assert [row["repeat"] for row in report.rows()] == [None, 0, 1]


def test_an_error_that_is_no_number_is_null(row: Callable[..., TrialRow]) -> None:
    best = row(0, "COMPLETE", 12.0)
    pooled = {"0": Pooled(12.0, math.nan, 100)}
    data: Any = StudyReport([best], best, [best], pooled=pooled).to_dict()
    assert data["folds"][0]["error"] is None
    json.dumps(data, allow_nan=False)


def test_of_a_metric_that_is_to_be_small_the_smallest_comes_first(row: Callable[..., TrialRow]) -> None:
    rows = [row(0, "COMPLETE", 2.0), row(1, "COMPLETE", 1.0)]
    pooled = {"0": Pooled(2.0, math.nan, 100), "1": Pooled(1.0, math.nan, 100)}
    report = StudyReport(rows, rows[1], [], Metric("loss", maximize=False), pooled=pooled)
    assert report.by_pooled == ["1", "0"]


def test_where_candidates_were_measured_on_some_folds_they_are_told_by_what_is_believed(
    add: Callable[..., StudyRecord],
) -> None:
    """A value on one fold is of a few images, and the best of several is the luckiest."""
    for rank, value in ((1, 0.95), (2, 0.7), (3, 0.6)):
        record = add(rank, value, HALVING, 0)
    add(1, 0.75, HALVING, 1)
    report, beliefs = StudyReport.of(record), record.beliefs()
    best = report.best
    assert isinstance(best, BelievedRow)
    assert (best.val, best.val_error) == beliefs.of(best.key)
    assert 0.7 < beliefs.of(best.key)[0] < 0.9
    data = report.to_dict()
    believed = {"val": best.val, "val_error": best.val_error, "believed": True}
    assert set(data["best"]) == ROW | {"device"} | set(believed)
    assert believed.items() <= data["best"].items()
    assert data["pareto"][0] == data["best"]  # it is the smallest, too
    assert [row["val"] for row in data["trials"]] == [0.95, 0.7, 0.6, 0.75]  # trials are what was measured
    told = report.worth(best)
    assert told.startswith(
        f"a believed {100 * beliefs.of(best.key)[0]:.1f}% on images not learned from (standard error"
    )
    assert [row.val for row in report.candidates] == sorted(beliefs.mean.tolist(), reverse=True)
    whole = report.of_candidate(best.key)
    assert whole == best
    assert report.of_candidate("none") is None


def test_a_value_on_val_is_told_with_the_error_of_its_images(row: Callable[..., TrialRow]) -> None:
    best = row(0, "COMPLETE", 0.9)
    report = StudyReport([best], best, [best], images=200)
    assert report.worth(best) == "90.0% on val (standard error 2.1 points on 200 images)"
    assert report.error(best) == pytest.approx(math.sqrt(0.9 * 0.1 / 200))
    assert report.compared(best) is best
