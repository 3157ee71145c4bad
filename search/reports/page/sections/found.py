"""What was found, in two sentences, a figure and a table."""

from __future__ import annotations

from typing import Any

from petlas.search.objectives.base import ppt
from petlas.search.reports.page.contest import (
    FOUND,
    RETRAINED,
    Contender,
    Measured,
    contenders,
    error_of_difference,
    error_on_val,
)
from petlas.search.reports.page.html import figure, paragraph, table, tag, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text, chosen_text, measured, percent, points, shorten, unit

_SHOWN = 14
_LETTERS = 40


def section(run: RunView) -> str:
    """The chosen design with its uncertainty, and beside it the known designs."""
    found = contenders(run)
    if run.best is None or run.best.val is None:
        waiting = tag("p", "No trial has come to its end yet.", kind="lead")
        return waiting + (_table(run, found) if found else "")
    told = tag("p", text(f"{_chosen(run)} {_against(run, found)}"), kind="lead")
    return told + (_drawn(run, found[:_SHOWN]) if len(found) > 1 else "") + _table(run, found)


def _chosen(run: RunView) -> str:
    best = run.best
    assert best is not None
    what = f"{chosen_text(best.design, best.settings)}, {best.params:,} parameters"
    begun = f"For {run.config.task.name} on {run.config.backbone.name} the search chose {what}"
    return f"{begun}, with {run.report.worth(best)}."


def _against(run: RunView, found: list[Contender]) -> str:
    """What is sure of it: on test where that was read, else on val."""
    mine, known = found[0], [one for one in found if one.kind not in (FOUND, RETRAINED)]
    if mine.test is None:
        if not known:
            return "It was not tested yet, and nothing was trained to compare it with."
        first = _first(run, [(one, one.val) for one in known])
        if first is None or first.val is None or mine.val is None:
            return "It was not tested yet."
        where = "by what is believed of both" if run.by_belief else "on val"
        told = _difference(run, first, mine.val, first.val, error_on_val(run, mine, first))
        return f"It was not tested yet; {told} {where}."
    seeds = f"{mine.test.seeds} seed{'s' if mine.test.seeds > 1 else ''}"
    error = "" if mine.test.error is None else f" (standard error {points(run.metric, mine.test.error)})"
    spread = f" ± {measured(run.metric, mine.test.std)}" if mine.test.seeds > 1 else ""
    told = f"Retrained on train+val with {seeds} it has {run.metric.format(mine.test.value)}{spread} on test{error}"
    first = _first(run, [(one, one.test) for one in known])
    if first is None or first.test is None:
        return f"{told}; no known design was tested beside it (petlas retrain --baselines does it)."
    return f"{told}; {_difference(run, first, mine.test, first.test, error_of_difference(run, mine, first))}."


def _first(run: RunView, values: list[tuple[Contender, Measured | None]]) -> Contender | None:
    sign = 1 if run.metric.maximize else -1
    told = [(one, value.value) for one, value in values if value is not None]
    return max(told, key=lambda pair: sign * pair[1])[0] if told else None


def _difference(run: RunView, other: Contender, mine: Measured, its: Measured, error: float | None) -> str:
    by = mine.value - its.value
    sure = ", and how sure that is is not known"
    if error is not None:
        more = "more" if abs(by) > 2 * error else "no more"
        sure = f", which is {more} than two standard errors ({points(run.metric, 2 * error)})"
    gap = f"{100 * by:+.1f} points" if run.metric.percent else f"{by:+.4g}"
    return f"against the best known design, {other.name}, that is {gap}{sure}"


def _drawn(run: RunView, found: list[Contender]) -> str:
    """All of them on val and on test, with their standard errors."""
    places, images = list(range(len(found)))[::-1], run.report.images
    val = "believed" if run.by_belief else "val" + ("" if images is None else f", {images:,} images")
    data = [
        _trace(run, places, [one.val for one in found], val, "circle", 0.12),
        _trace(run, places, [one.test for one in found], "test", "diamond", -0.12),
    ]
    of = "what is believed of each after a whole training, by all trainings together" if run.by_belief else "on val"
    tested = ", and on test, where that was read" if any(one.test for one in found) else "; test was not read yet"
    return figure(
        f"What was found and known designs at the same budget: {run.metric.name}, {of}{tested}. A line is one standard "
        "error to either side: what lies within two of each other cannot be told apart.",
        [trace for trace in data if trace["x"]],
        height=110 + 30 * len(found),
        xaxis={"title": {"text": text(run.metric.name)}, "tickformat": ".0%" if run.metric.percent else ""},
        yaxis={
            "tickvals": places,
            "ticktext": [text(shorten(one.label, _LETTERS)) for one in found],
            "range": [-0.6, len(found) - 0.4],
            "zeroline": False,
        },
    )


def _trace(
    run: RunView, places: list[int], values: list[Measured | None], name: str, symbol: str, up: float
) -> dict[str, Any]:
    told = [(value, place + up) for value, place in zip(values, places, strict=True) if value is not None]
    shown = "%{x:.1%}" if run.metric.percent else "%{x}"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [value.value for value, _ in told],
        "y": [place for _, place in told],
        "error_x": {"type": "data", "array": [value.error for value, _ in told], "thickness": 1.2, "width": 3},
        "marker": {"size": 9, "symbol": symbol},
        "hovertemplate": f"{shown}<extra>{name}</extra>",
    }


def _table(run: RunView, found: list[Contender]) -> str:
    of = unit(run.metric)
    val = f"believed{of}#" if run.by_belief else f"val{of}#"
    columns = ("", val, "error#", f"folds{of}#", "error#", f"test{of}#", "error#", "PPT#", "params#", "design")
    cells = [_cells(run, one) for one in found]
    kept = [index for index in range(len(columns)) if any(cell[index] != "-" for cell in cells)]
    told = "Errors are standard errors."
    if run.metric.percent:
        told += " PPT weighs a value, of test where there is one, by size: value * exp(-log10(parameters / 10^7 + 1))."
    return table([columns[i] for i in kept], [[cell[i] for i in kept] for cell in cells]) + paragraph(told)


def _cells(run: RunView, one: Contender) -> tuple[str, ...]:
    pooled, last = run.report.pooled.get(one.key), one.test or one.val
    weighed = None if last is None or not run.metric.percent else ppt(last.value, one.params)
    return (
        one.name,
        *_pair(run, one.val),
        *_pair(run, None if pooled is None else Measured(pooled.value, pooled.error)),
        *_pair(run, one.test),
        percent(weighed),
        f"{one.params:,}",
        candidate_text(one.design, one.settings),
    )


def _pair(run: RunView, value: Measured | None) -> tuple[str, str]:
    if value is None:
        return "-", "-"
    return measured(run.metric, value.value), measured(run.metric, value.error)
