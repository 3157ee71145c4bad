"""Several runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from petlas.search.reports.page.html import paragraph, table, tag
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text, duration, measured, percent, spread, standard_error, unit


def comparison(views: Sequence[RunView]) -> str:
    """A table of what each run found; the mean over them where all have the same metric.

    Args:
        views: The runs.
    """
    same = len({view.metric for view in views}) == 1
    of = unit(views[0].metric) if same else ""
    columns = ("run", "task", "backbone", f"val{of}#", "error#", f"test{of}#", "params#", "time#", "design")
    rows = [_row(view) for view in views]
    values = [view.report.best.val for view in views if view.report.best and view.report.best.val is not None]
    tests = [view.retrained["test_mean"] for view in views if view.retrained]
    if same and len(values) == len(views):
        mean = measured(views[0].metric, sum(values) / len(values))
        test = measured(views[0].metric, sum(tests) / len(tests)) if len(tests) == len(views) else "-"
        rows.append(("mean", "", "", mean, "", test, "", "", ""))
    told = "" if same else paragraph("The runs have different metrics, so there is no mean of their values.")
    return tag("section", tag("h2", f"{len(views)} runs") + told + table(columns, rows))


def _row(view: RunView) -> tuple[str, ...]:
    best, metric, config = view.report.best, view.metric, view.config
    named = (view.name, config.task.name, config.backbone.name)
    took = duration(view.elapsed)
    if best is None or best.val is None:
        return (*named, "-", "", "-", "", took, "no trial has come to its end yet")
    error = standard_error(metric, best.val, view.report.images)
    test = "-"
    if view.retrained:
        test = spread(metric, view.retrained["test_mean"], view.retrained["test_std"], len(view.retrained["seeds"]))
    found = candidate_text(best.design, best.settings)
    return (*named, measured(metric, best.val), percent(error), test, f"{best.params:,}", took, found)
