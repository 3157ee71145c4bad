"""What was found, in two sentences and a table."""

from __future__ import annotations

import math
from typing import Any

from petlas.search.reports.page.html import table, tag, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text, chosen_text, error_text, measured, percent, standard_error, unit
from petlas.search.study import TrialRow


def section(run: RunView) -> str:
    """The chosen design with its uncertainty, and beside it the known designs."""
    best = run.report.best
    if best is None or best.val is None:
        return tag("p", "No trial has come to its end yet.", kind="lead")
    told = tag("p", text(f"{_chosen(run, best)} {_against(run, best)}"), kind="lead")
    of = unit(run.metric)
    columns = ("", f"val{of}#", "error#", f"folds{of}#", "error#", f"test{of}#", "error#", "params#", "design")
    rows = [("found", best), *((_name(row), row) for row in run.known if row.key != best.key)]
    cells = [_cells(run, name, row) for name, row in rows]
    kept = [index for index in range(len(columns)) if any(cell[index] != "-" for cell in cells)]
    return told + table([columns[index] for index in kept], [[cell[index] for index in kept] for cell in cells])


def _chosen(run: RunView, best: TrialRow) -> str:
    value, images = best.val or 0.0, run.report.images
    told = f"{run.metric.format(value)} on val{error_text(standard_error(run.metric, value, images), images)}"
    if (pooled := run.report.pooled.get(best.key)) is not None:
        told += f", {run.metric.format(pooled.value)} over all folds{error_text(pooled.error, pooled.images)}"
    return (
        f"For {run.config.task.name} on {run.config.backbone.name} the search chose "
        f"{chosen_text(best.design, best.settings)}, {best.params:,} parameters, with {told}."
    )


def _against(run: RunView, best: TrialRow) -> str:
    """What is sure of it: on test where that was read, else on val."""
    mine, others = _test(run, best), [(row, _test(run, row)) for row in run.known if row.key != best.key]
    tested = [(row, found) for row, found in others if found is not None]
    if mine is None:
        if not others:
            return "It was not tested yet, and nothing was trained to compare it with."
        first, value, images = others[0][0], best.val or 0.0, run.report.images
        errors = [standard_error(run.metric, v, images) for v in (value, first.val or 0.0)]
        return f"It was not tested yet; {_difference(run, first, value - (first.val or 0.0), errors)} on val."
    seeds = f"{mine['seeds']} seed{'s' if mine['seeds'] > 1 else ''}"
    spread = f" ± {percent(mine['std'])}" if mine["seeds"] > 1 else ""
    told = f"Retrained on train+val with {seeds} it has {run.metric.format(mine['mean'])}{spread} on test"
    if not tested:
        return f"{told}; no baseline was tested beside it."
    sign = 1 if run.metric.maximize else -1
    row, other = max(tested, key=lambda pair: sign * pair[1]["mean"])
    return f"{told}; {_difference(run, row, mine['mean'] - other['mean'], [mine['error'], other['error']])}."


def _difference(run: RunView, other: TrialRow, by: float, errors: list[float | None]) -> str:
    known = [error for error in errors if error is not None]
    sure = ", and one seed cannot tell how sure that is"
    if len(known) == len(errors):
        error = math.hypot(*known)
        more = "more" if abs(by) > 2 * error else "no more"
        sure = f", which is {more} than two standard errors ({100 * 2 * error:.1f} points)"
    points = f"{100 * by:+.1f} points" if run.metric.percent else f"{by:+.4g}"
    return f"against the best known design, {_name(other)}, that is {points}{sure}"


def _test(run: RunView, row: TrialRow) -> dict[str, Any] | None:
    """The mean on test over seeds of a design that was retrained."""
    for found in [*([run.retrained] if run.retrained else []), *run.baselines]:
        if found["design"] == row.design and (found.get("settings") or {}) == row.settings:
            count = len(found["seeds"])
            error = found["test_std"] / math.sqrt(count) if count > 1 else None
            return {"mean": found["test_mean"], "std": found["test_std"], "seeds": count, "error": error}
    return None


def _name(row: TrialRow) -> str:
    return ", ".join(dict.fromkeys(p["method"] for p in row.design.get("placements", []))) or "linear"


def _cells(run: RunView, name: str, row: TrialRow) -> tuple[str, ...]:
    test, pooled = _test(run, row), run.report.pooled.get(row.key)
    error = standard_error(run.metric, row.val or 0.0, run.report.images)
    return (
        name,
        measured(run.metric, row.val),
        percent(error),
        measured(run.metric, pooled.value if pooled else None),
        percent(pooled.error if pooled else None),
        measured(run.metric, test["mean"] if test else None),
        percent(test["error"] if test else None),
        f"{row.params:,}",
        candidate_text(row.design, row.settings),
    )
