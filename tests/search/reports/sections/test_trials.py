from collections.abc import Callable

from petlas.search.objectives import Metric
from petlas.search.reports.sections import trials
from petlas.search.reports.study_report import StudyReport
from petlas.search.study import TrialRow

Row = Callable[..., TrialRow]
Printed = Callable[..., list[str]]


def test_every_trial_is_a_line_and_those_on_the_front_are_marked(row: Row, printed: Printed) -> None:
    best = row(0, "COMPLETE", 0.9)
    rows = [best, row(1, "PRUNED", 0.5), row(2, "FAIL", None, design={}, seconds=0.0)]
    lines = printed(*trials.section(StudyReport(rows, best, [best])))
    assert lines[1].split()[:7] == ["0*", "COMPLETE", "search", "90.0", "1,234", "2", "3"]
    assert lines[2].split()[:2] == ["1", "PRUNED"]
    assert lines[3].split()[:4] == ["2", "FAIL", "search", "-"]
    assert "lora -,4" in lines[1]
    assert lines[4] == "* on the Pareto front of accuracy and parameters"


def test_settings_and_folds_are_shown_where_there_are_any(row: Row, printed: Printed) -> None:
    rows = [row(0, "COMPLETE", 0.9, settings={"lr": 0.003}), row(1, "COMPLETE", 0.8, stage="folds", fold=2)]
    lines = printed(*trials.section(StudyReport(rows, rows[0], [])))
    assert lines[0].split()[:5] == ["trial", "state", "stage", "fold", "val"]
    assert lines[1].endswith("lora -,4 | lr 0.003")
    assert lines[2].split()[:5] == ["1", "COMPLETE", "folds", "3", "80.0"]  # of the log's "fold 3 of 5"


def test_trials_that_differ_by_how_often_the_images_were_dealt_are_told_apart(row: Row, printed: Printed) -> None:
    rows = [row(0, "COMPLETE", 0.9), *(row(i, "COMPLETE", 0.8, stage="folds", fold=2, repeat=i - 1) for i in (1, 2))]
    lines = printed(*trials.section(StudyReport(rows, rows[0], [])))
    assert lines[0].split()[:6] == ["trial", "state", "stage", "fold", "repeat", "val"]
    assert [line.split()[3:6] for line in lines[2:4]] == [["3", "0", "80.0"], ["3", "1", "80.0"]]
    assert lines[4].startswith("repeat: how often the images had been dealt anew")
    assert "repeat" not in " ".join(printed(*trials.section(StudyReport(rows[:2], rows[0], []))))


def test_another_metric_is_told_as_it_is(row: Row, printed: Printed) -> None:
    rows = [row(0, "COMPLETE", 1.25)]
    lines = printed(*trials.section(StudyReport(rows, rows[0], rows, Metric("loss", percent=False))))
    assert "%" not in lines[0]
    assert lines[1].split()[3] == "1.25"
    assert lines[2] == "* on the Pareto front of loss and parameters"


def test_of_many_scores_the_best_are_listed_and_the_others_counted(row: Row, printed: Printed) -> None:
    scores = [row(n, "COMPLETE", n / 100, stage="score", epochs=0) for n in range(50)]
    trained = [row(50, "COMPLETE", 0.1, stage="finalist"), row(51, "FAIL", None, stage="finalist")]
    report = StudyReport([*scores, *trained], trained[0], [])
    lines = printed(*trials.section(report.brief()))
    assert [int(line.split()[0]) for line in lines[1:-2]] == [*range(30, 50), 50, 51]
    assert lines[-2].startswith("30 further scores, none of them better: petlas study RUN --format csv")
    few = StudyReport(trained, trained[0], [])
    assert few.brief() == few
