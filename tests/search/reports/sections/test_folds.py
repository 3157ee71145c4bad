from collections.abc import Callable

from petlas.search.reports.sections import folds
from petlas.search.reports.study_report import StudyReport
from petlas.search.selection import Pooled
from petlas.search.study import TrialRow


def test_finalists_are_told_by_their_pooled_values_the_best_first(
    row: Callable[..., TrialRow], printed: Callable[..., list[str]]
) -> None:
    rows = [row(0, "COMPLETE", 0.9), row(1, "COMPLETE", 0.8, settings={"lr": 0.003})]
    pooled = {"0": Pooled(0.8, 0.0126, 1000), "1": Pooled(0.85, 0.0113, 1000)}
    lines = printed(*folds.section(StudyReport(rows, rows[1], [], pooled=pooled)))
    assert lines[0] == "finalists over all folds"
    assert lines[2].split()[:4] == ["85.0", "1.1", "1,000", "1,234"]
    assert lines[2].endswith("| lr 0.003")
    assert lines[3].split()[:2] == ["80.0", "1.3"]


def test_without_folds_nothing_is_said(row: Callable[..., TrialRow]) -> None:
    rows = [row(0, "COMPLETE", 0.9)]
    assert list(folds.section(StudyReport(rows, rows[0], rows))) == []
