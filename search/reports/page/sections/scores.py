"""How well the scores of a supernet rank designs."""

from __future__ import annotations

from petlas.search.reports.page.html import figure, paragraph, text
from petlas.search.reports.page.run import RunView


def section(run: RunView) -> str:
    """Kendall's tau with its interval and a scatter plot; nothing where it was not checked."""
    found = run.report.agreement
    if found is None:
        return ""
    lost = ", ".join(f"{100 * value:.1f} points with the best {top}" for top, value in found.regret.items())
    told = paragraph(
        f"Scores with inherited weights rank {len(found.points)} stand-alone designs with Kendall's tau "
        f"{found.tau:.2f} (95% interval {found.low:.2f} to {found.high:.2f}); trusting them loses {lost}."
        + ("" if found.trusted else " The interval includes 0: on this evidence they rank no better than chance.")
    )
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [score for _, score, _ in found.points],
        "y": [value for _, _, value in found.points],
        "text": [f"trial {number}" for number, _, _ in found.points],
        "hovertemplate": "%{text}: score %{x}, trained %{y}<extra></extra>",
    }
    axes = {"tickformat": ".1%"} if run.metric.percent else {}
    return told + figure(
        "Each point is a design: its score, and its value when it was trained on its own.",
        [points],
        xaxis={"title": {"text": "score"}} | axes,
        yaxis={"title": {"text": text(run.metric.name)}} | axes,
    )
