from collections.abc import Callable
from dataclasses import replace

import numpy as np

from petlas.search.objectives import Metric
from petlas.search.reports.sections import best
from petlas.search.reports.study_report import StudyReport
from petlas.search.selection import Beliefs, Pooled
from petlas.search.study import TrialRow

Row = Callable[..., TrialRow]


def told(report: StudyReport) -> str:
    (line,) = best.section(report)
    return str(line)


def test_the_best_is_told_with_the_error_of_its_accuracy(row: Row) -> None:
    trial = row(0, "COMPLETE", 0.9)
    line = told(StudyReport([trial], trial, [trial], images=200))
    assert line.startswith("best: trial 0 with 90.0% on val (standard error 2.1 points on 200 images)")
    assert line.endswith("1,234 parameters: lora -,4")


def test_without_the_number_of_images_the_standard_error_is_left_out(row: Row) -> None:
    trial = row(0, "COMPLETE", 0.9)
    assert "standard error" not in told(StudyReport([trial], trial, [trial]))
    assert "standard error" not in told(StudyReport([trial], trial, [trial], Metric("mAP"), 200))


def test_its_pooled_value_is_told_where_it_was_measured_on_folds(row: Row) -> None:
    trial = row(0, "COMPLETE", 0.9, settings={"lr": 0.003})
    line = told(StudyReport([trial], trial, [trial], pooled={"0": Pooled(0.85, 0.0113, 1000)}))
    assert "90.0% on val, 85.0% over all folds (standard error 1.1 points on 1,000 images)" in line
    assert line.endswith("lora -,4 | lr 0.003")


def test_what_is_believed_is_told_as_such(row: Row) -> None:
    trial = row(7, "COMPLETE", 0.93, fold=2)
    believed = Beliefs(("7",), np.array([0.861]), np.array([[0.012**2]]))
    report = StudyReport([trial], None, [], images=200, believed=believed)
    line = told(replace(report, best=report.compared(trial)))
    sure = "standard error 1.2 points, by all trainings on all folds together"
    assert line.startswith(f"best: trial 7 with a believed 86.1% on images not learned from ({sure}), 1,234 parameters")
    assert "93.0" not in line


def test_a_study_without_a_finished_trial_says_so(row: Row) -> None:
    assert told(StudyReport([row(0, "RUNNING", 0.4)], None, [])) == "no trial has come to its end yet"
