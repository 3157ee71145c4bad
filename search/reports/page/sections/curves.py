"""How trainings went."""

from __future__ import annotations

from typing import Any

from petlas.search.reports.page.html import figure, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text
from petlas.search.study import SCORE, row_of

_SHOWN = 100


def section(run: RunView) -> str:
    """Values after each epoch of every training; the chosen one in front."""
    best = run.report.best
    trained = [t for t in run.trials if t.user_attrs.get("stage") != SCORE and len(t.intermediate_values) > 1]
    trained = sorted(trained[:_SHOWN], key=lambda t: best is not None and t.number == best.number)
    if not trained:
        return ""
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    for trial in trained:
        row, epochs = row_of(trial), sorted(trial.intermediate_values)
        chosen = best is not None and trial.number == best.number
        kind, colour = ("chosen", "#e07b39") if chosen else _KINDS.get(row.state, ("other", "#808890"))
        told = text(f"trial {row.number}, {candidate_text(row.design, row.settings)}")
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": kind,
                "legendgroup": kind,
                "showlegend": kind not in named,
                "x": epochs,
                "y": [trial.intermediate_values[epoch] for epoch in epochs],
                "line": {"color": colour, "width": 3 if chosen else 1},
                "meta": told,
                "hovertemplate": "%{y} after %{x} epochs<br>%{meta}<extra></extra>",
            }
        )
        named.add(kind)
    return figure(
        f"The value on val after each epoch of {len(trained)} trainings. Where lines end, halving stopped them.",
        data,
        xaxis={"title": {"text": "epoch"}},
        yaxis={"title": {"text": text(run.metric.name)}, "tickformat": ".1%" if run.metric.percent else ""},
    )


_KINDS = {"COMPLETE": ("whole", "#3b82d6"), "PRUNED": ("stopped early", "#808890"), "RUNNING": ("running", "#3a9e6e")}
