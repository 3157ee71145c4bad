"""Where time went."""

from __future__ import annotations

from collections import defaultdict

from petlas.search.reports.page.html import paragraph, table
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import duration
from petlas.search.study import (
    BASELINE,
    FINALIST,
    FOLDS,
    HALVING,
    PORTFOLIO,
    RANKING,
    SCORE,
    SEARCH,
    SENSITIVITY,
    VARIED,
)

_MEANS = {
    BASELINE: "known strong designs at the same budget",
    SEARCH: "drawn by the sampler",
    SCORE: "scored with a supernet's weights, not trained",
    FINALIST: "the best by score, trained on their own",
    SENSITIVITY: "where the loss is sensitive",
    RANKING: "trained to see how well scores rank designs",
    FOLDS: "the best anew, on folds of train and val",
    PORTFOLIO: "strong across tasks, in short trainings",
    VARIED: "made from the leaders, in short trainings",
    HALVING: "the best so far, on other folds and for more epochs",
}
"""What trials of a stage are for, in a few words."""


def section(run: RunView) -> str:
    """Trials, R and seconds of each stage."""
    stages: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for trial, price in run.costs:
        own = stages[trial.user_attrs.get("stage", "search")]
        own[0] += 1
        own[1] += price
        own[2] += trial.user_attrs.get("seconds", 0.0)
    if not stages:
        return ""
    rows = [*stages.items(), ("all", [sum(column) for column in zip(*stages.values(), strict=True)])]
    cells = [
        (name, f"{int(n):,}", f"{r:.1f}", duration(seconds), _MEANS.get(name, "")) for name, (n, r, seconds) in rows
    ]
    took = f"Searching took {duration(run.elapsed)} by the clock. " if run.elapsed else ""
    told = f"{took}R is the price of one training at full epochs; seconds are summed over trials, side by side or not."
    return table(("stage", "trials#", "R#", "seconds of trials#", "what"), cells) + paragraph(told)
