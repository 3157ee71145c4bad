"""The chosen candidate."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.text import candidate_text


def section(report: StudyReport) -> Iterator[RenderableType]:
    """One line: the value that it was chosen by, with the standard error, its parameters and what it is."""
    best = report.best
    if best is None or best.val is None:
        yield "no trial has come to its end yet"
        return
    text = candidate_text(best.design, best.settings)
    yield f"best: trial {best.number} with {report.worth(best)}, {best.params:,} parameters: {text}"
