"""Several runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from petlas.search.reports.comparing import columns, compared
from petlas.search.reports.page.html import paragraph, table, tag
from petlas.search.reports.page.run import RunView


def comparison(views: Sequence[RunView]) -> str:
    """A table of what each run found; means where all have the same metric.

    Args:
        views: The runs.
    """
    same = len({view.metric for view in views}) == 1
    told = "" if same else paragraph("The runs have different metrics, so there is no mean of their values.")
    return tag("section", tag("h2", f"{len(views)} runs") + told + table(columns(views), compared(views)))
