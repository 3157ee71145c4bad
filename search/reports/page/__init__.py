"""One self-contained HTML page on runs. To add a section: write its file in `sections/`, and add its line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from petlas.files import write_text
from petlas.lazy import look_up
from petlas.search.run_folder import REPORT, RunError, find_runs

if TYPE_CHECKING:
    from petlas.search.reports.page.run import RunView

Section = Callable[["RunView"], str]
"""A run to HTML, which is empty where there is nothing to be said."""

_PLACE = "petlas.search.reports.page.sections"

PAGE_SECTIONS: dict[str, str] = {
    "What was found": f"{_PLACE}.found:section",
    "What it gets wrong": f"{_PLACE}.mistakes:section",
    "The best designs": f"{_PLACE}.designs:section",
    "History": f"{_PLACE}.history:section",
    "What was believed": f"{_PLACE}.beliefs:section",
    "Value and parameters": f"{_PLACE}.front:section",
    "What helped and what hurt": f"{_PLACE}.effects:section",
    "What mattered": f"{_PLACE}.importances:section",
    "Learning curves": f"{_PLACE}.curves:section",
    "Sensitivity": f"{_PLACE}.sensitivity:section",
    "Scores against truth": f"{_PLACE}.scores:section",
    "Where time went": f"{_PLACE}.costs:section",
    "How it was made": f"{_PLACE}.setup:section",
}
"""By their titles, in their order."""


def write_page(runs: Sequence[str], out: Path | None = None) -> Path:
    """Write the page.

    Args:
        runs: Run folders, names in `runs/`, or folders of runs.
        out: Where; by default `report.html` in the run's folder, or beside the runs where there are several.

    Raises:
        UserError: When there is no such run, or the page cannot be written.
    """
    from petlas.search.reports.page.comparison import comparison
    from petlas.search.reports.page.run import RunView
    from petlas.search.reports.page.template import document

    configs = find_runs(runs)
    views = [RunView.of(config) for config in configs]
    parts = [comparison(views)] if len(views) > 1 else []
    parts += [_of_run(view, several=len(views) > 1) for view in views]
    folder = configs[0].folder
    path = out or (folder if len(views) == 1 else folder.parent) / REPORT
    try:
        write_text(path, document([view.name for view in views], parts))
    except OSError as error:
        raise RunError(f"the page cannot be written to {path} ({error}); choose another place with --out") from error
    return path


def _of_run(view: RunView, several: bool) -> str:
    """All sections of a run; of several, one is opened at a time."""
    from petlas.search.reports.page.html import tag, text

    told = []
    for title, place in PAGE_SECTIONS.items():
        section: Section = look_up(place)
        if body := section(view):
            told.append(tag("section", tag("h2", text(title)) + body))
    body = "".join(told)
    return f"<details><summary>{text(view.name)}</summary>{body}</details>" if several else body


__all__ = ["PAGE_SECTIONS", "Section", "write_page"]
