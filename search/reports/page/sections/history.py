"""How the search went."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any, TypeAlias

from petlas.search.reports.page.html import COLOURS, figure, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text
from petlas.search.study import SCORE, SHORT, row_of


def section(run: RunView) -> str:
    """Values by trial and stage; those of trainings by cost in R, too, with the best so far."""
    points: dict[str, list[_Point]] = defaultdict(list)
    trained: dict[str, list[_Point]] = defaultdict(list)
    best: list[tuple[float, float]] = []
    cost, better = 0.0, max if run.metric.maximize else min
    for trial, price in run.costs:
        row, cost = row_of(trial), cost + price
        if row.val is None:
            continue
        short = bool(trial.user_attrs.get(SHORT))
        kind = "stopped early" if row.state == "PRUNED" and not short else row.stage
        told = text(f"trial {row.number}, {candidate_text(row.design, row.settings)}, {row.params:,} parameters")
        points[kind].append((row.number, row.val, told))
        if row.stage != SCORE:
            trained[kind].append((cost, row.val, told))
            if row.state == "COMPLETE" and row.fold is None:
                best.append((cost, better(row.val, best[-1][1]) if best else row.val))
    if not points:
        return ""
    colours = dict(zip(points, itertools.cycle(COLOURS), strict=False))  # the same in both figures
    value = {"title": {"text": text(run.metric.name)}, "tickformat": ".1%" if run.metric.percent else ""}
    drawn = figure(
        "The last value of every trial, in the order in which they began, by the stage that tried it. Stopped early: "
        "it was behind others after the same epochs.",
        [_scatter(kind, found, colours[kind]) for kind, found in points.items()],
        xaxis={"title": {"text": "trial"}, "rangemode": "tozero"} | ({"dtick": 1} if len(run.trials) <= 20 else {}),
        yaxis=value,
    )
    if not trained:
        return drawn
    so_far: list[dict[str, Any]] = []
    if best:
        xs, ys = zip(*best, strict=True)
        line = {"shape": "hv", "width": 1, "dash": "dot", "color": COLOURS[-1]}
        so_far = [{"type": "scatter", "mode": "lines", "name": "best so far", "x": xs, "y": ys, "line": line}]
    return drawn + figure(
        "The same trainings by what had been spent when they ended, in R: 1 R is the price of one training at full "
        "epochs. Where the best value still rises at the end, more trials may help.",
        [*(_scatter(kind, found, colours[kind]) for kind, found in trained.items()), *so_far],
        xaxis={"title": {"text": "R spent"}, "rangemode": "tozero"},
        yaxis=value,
    )


_Point: TypeAlias = tuple[float, float, str]
"""Where a trial stands, its value, and what it tried."""


def _scatter(name: str, points: list[_Point], colour: str) -> dict[str, Any]:
    xs, ys, told = zip(*points, strict=True)
    hover = "%{y}<br>%{text}<extra>%{fullData.name}</extra>"
    drawn: dict[str, Any] = {"type": "scatter", "mode": "markers", "name": text(name), "x": xs, "y": ys, "text": told}
    drawn["cliponaxis"] = False
    return drawn | {"hovertemplate": hover, "marker": {"size": 7, "color": colour}}
