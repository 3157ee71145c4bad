"""How trainings went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from petlas.search.reports.page.html import COLOURS, figure, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text
from petlas.search.study import SCORE, SHORT, row_of

_SHOWN = 100


def section(run: RunView) -> str:
    """Values after each epoch of every training; the chosen one in front, and marks where others were stopped."""
    trained = [t for t in run.trials if t.user_attrs.get("stage") != SCORE and t.intermediate_values]
    longest = max((max(trial.intermediate_values) for trial in trained), default=0)
    if longest < 2:
        return ""
    best = run.report.best
    chosen = [trial for trial in trained if best is not None and trial.number == best.number]
    others = [trial for trial in trained if trial not in chosen]
    shown = [*others[: _SHOWN - len(chosen)], *chosen]
    named: set[str] = set()
    data = [_line(run, trial, named) for trial in shown]
    rungs = _rungs(trained, longest)
    count = f"{len(trained)} trainings" if len(shown) == len(trained) else f"{len(shown)} of {len(trained)} trainings"
    told = f"The value on what it was measured on, after each epoch of {count}."
    if rungs:
        told += " Dotted lines are where trainings were stopped or short ones ended, and how many."
    return figure(
        told,
        data,
        xaxis={"title": {"text": "epoch"}, "rangemode": "tozero"} | ({"dtick": 1} if longest <= 20 else {}),
        yaxis={"title": {"text": text(run.metric.name)}, "tickformat": ".1%" if run.metric.percent else ""},
        shapes=[
            {
                "type": "line",
                "x0": x,
                "x1": x,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"dash": "dot", "width": 1, "color": COLOURS[-1]},
            }
            | {"layer": "below"}
            for x in rungs
        ],
        annotations=[
            {"x": x, "yref": "paper", "y": 0, "yanchor": "bottom", "xanchor": "left", "showarrow": False}
            | {"text": f"{ended} ended"}
            for x, ended in rungs.items()
        ],
    )


_MOST_RUNGS = 8


def _rungs(trained: Sequence[FrozenTrial], longest: int) -> dict[int, int]:
    """How many trainings ended after each number of epochs that is not the whole; the most frequent ones."""
    ends = Counter(max(t.intermediate_values) for t in trained if t.state.is_finished())
    ends.pop(longest, None)
    return dict(sorted(ends.most_common(_MOST_RUNGS)))


def _line(run: RunView, trial: FrozenTrial, named: set[str]) -> dict[str, Any]:
    """A training; the first of each kind stands in the legend."""
    row, epochs, best = row_of(trial), sorted(trial.intermediate_values), run.report.best
    chosen = best is not None and trial.number == best.number
    kind, colour = ("chosen", COLOURS[1]) if chosen else _kind(trial)
    told = text(f"trial {row.number}, {candidate_text(row.design, row.settings)}")
    first = kind not in named
    named.add(kind)
    return {
        "type": "scatter",
        "mode": "lines" if len(epochs) > 1 else "markers",
        "name": kind,
        "legendgroup": kind,
        "showlegend": first,
        "x": epochs,
        "y": [trial.intermediate_values[epoch] for epoch in epochs],
        "line": {"color": colour, "width": 3 if chosen else 1},
        "marker": {"color": colour, "size": 6},
        "meta": told,
        "hovertemplate": "%{y} after %{x} epochs<br>%{meta}<extra></extra>",
    }


def _kind(trial: FrozenTrial) -> tuple[str, str]:
    if trial.user_attrs.get(SHORT):
        return "short training", COLOURS[4]
    return _KINDS.get(trial.state.name, ("other", COLOURS[-1]))


_KINDS = {
    "COMPLETE": ("whole", COLOURS[0]),
    "PRUNED": ("stopped early", COLOURS[-1]),
    "RUNNING": ("running", COLOURS[2]),
}
