"""The chosen candidate."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.text import candidate_text, error_text, standard_error


def section(report: StudyReport) -> Iterator[RenderableType]:
    """One line: its value with the standard error, on val and over folds, its parameters and what it is."""
    best, metric = report.best, report.metric
    if best is None or best.val is None:
        yield "no trial has come to its end yet"
        return
    error = error_text(standard_error(metric, best.val, report.images), report.images)
    told = f"{metric.format(best.val)} on val{error}"
    if (pooled := report.pooled.get(best.key)) is not None:
        told += f", {metric.format(pooled.value)} over all folds{error_text(pooled.error, pooled.images)}"
    text = candidate_text(best.design, best.settings)
    yield f"best: trial {best.number} with {told}, {best.params:,} parameters: {text}"
