"""Value against parameters."""

from __future__ import annotations

from petlas.search.reports.page.html import figure, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text
from petlas.search.study import TrialRow


def section(run: RunView) -> str:
    """Every design that was trained whole, and the front that none of them beats."""
    if len(run.whole) < 2:
        return ""

    def trace(rows: list[TrialRow], name: str, mode: str, size: int) -> dict[str, object]:
        return {
            "type": "scatter",
            "mode": mode,
            "name": name,
            "x": [row.params for row in rows],
            "y": [row.val for row in rows],
            "text": [text(candidate_text(row.design, row.settings)) for row in rows],
            "hovertemplate": "%{y}, %{x:,} parameters<br>%{text}<extra></extra>",
            "marker": {"size": size},
        }

    of = "what is believed of it" if run.by_belief else "its value on val"
    told = (
        "Each point is a design that was measured" if run.by_belief else "Each point is a design that was trained whole"
    )
    return figure(
        f"{told}, with {of}. On the line, no other has both fewer parameters and a better value: where it is flat, "
        "fewer parameters do as well.",
        [trace(run.whole, "designs", "markers", 7), trace(run.report.pareto, "front", "lines+markers", 9)],
        xaxis={"title": {"text": "trainable parameters, head excluded"}, "rangemode": "tozero"},
        yaxis={"title": {"text": text(run.metric.name)}, "tickformat": ".1%" if run.metric.percent else ""},
    )
