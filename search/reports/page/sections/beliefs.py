"""What a search by `auto` believed, and what changed it."""

from __future__ import annotations

from petlas.search.reports.page.html import paragraph, table
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text, measured, unit
from petlas.search.study import Belief, Step


def section(run: RunView) -> str:
    """A row for each rung: its price, and of the best after it what was believed before and after."""
    if not run.course:
        return ""
    of = unit(run.metric)
    columns = ("stage", "epochs#", "trials#", "R#", f"believed before{of}#", f"after{of}#", "best after it")
    return table(columns, (_cells(run, step) for step in run.course)) + paragraph(
        "A belief is what a candidate would be worth on the images and after the epochs of the longest trainings yet, "
        "with its standard error: it is drawn towards candidates that are like it and towards what other tasks say."
    )


def _cells(run: RunView, step: Step) -> tuple[object, ...]:
    best = candidate_text(step.best.design.to_dict(), dict(step.best.settings))
    beliefs = (_told(run, step.before), _told(run, step.after))
    return (step.stage, step.epochs, step.trials, f"{step.R:.2f}", *beliefs, best)


def _told(run: RunView, belief: Belief | None) -> str:
    if belief is None:
        return "-"
    value, error = belief
    return f"{measured(run.metric, value)} ± {measured(run.metric, error)}"
