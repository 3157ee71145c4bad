"""The sections of what `petlas study` prints, in their order. To add one: write its file, and add its line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from rich.console import RenderableType

    from petlas.search.reports.study_report import StudyReport

Section = Callable[["StudyReport"], "Iterator[RenderableType]"]

SECTIONS: dict[str, str] = {
    "trials": "petlas.search.reports.sections.trials:section",
    "agreement": "petlas.search.reports.sections.agreement:section",
    "folds": "petlas.search.reports.sections.folds:section",
    "best": "petlas.search.reports.sections.best:section",
}


def sections(report: StudyReport) -> Iterator[RenderableType]:
    """All that is to be said of a study: texts without markup, and tables."""
    for place in SECTIONS.values():
        section: Section = look_up(place)
        yield from section(report)


__all__ = ["SECTIONS", "Section", "sections"]
