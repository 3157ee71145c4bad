"""The finalists over all folds, where they were compared on them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import RenderableType

from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.tables import drawn
from petlas.search.reports.text import candidate_text, measured, percent, unit


def section(report: StudyReport) -> Iterator[RenderableType]:
    """A table of pooled values with their standard errors, the best first, and how far each is behind it."""
    if not report.pooled:
        return

    def cells(key: str) -> list[str]:
        found, row = report.pooled[key], report.row(key)
        text = candidate_text(row.design, row.settings)
        value = measured(report.metric, found.value)
        return [value, percent(found.error), f"{found.images:,}", f"{row.params:,}", behind(key), text]

    def behind(key: str) -> str:
        apart = report.behind.get(key)
        if apart is None:
            return "-"
        told = measured(report.metric, abs(apart.value))
        return told if math.isnan(apart.error) else f"{told} ± {measured(report.metric, apart.error)}"

    columns = (f"folds{unit(report.metric)}#", "error#", "images#", "params#", "behind#", "design")
    yield drawn(columns, [cells(key) for key in report.by_pooled], title="finalists over all folds")
