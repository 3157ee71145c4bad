"""Several runs beside each other, as data: what each found, and what it is on the mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from statistics import fmean
from typing import Any

from petlas.datasets.names import ALIASES, GROUPS
from petlas.search.objectives import Metric
from petlas.search.objectives.base import ppt
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import candidate_text, duration, measured, percent, spread, unit


@dataclass(frozen=True)
class Summary:
    """Means over runs; None for what some run has not.

    Args:
        title: What they are over.
        val: Of the chosen candidates' values on the selection split.
        test: Of the retrained ones'.
        ppt: Of the test values weighed by parameters.
        R: Of what the searches cost.
    """

    title: str
    val: float | None
    test: float | None
    ppt: float | None
    R: float


@dataclass(frozen=True)
class RunRow:
    """What a run found; None for what is not known yet.

    Args:
        name: The run's.
        task: Its task.
        backbone: Its backbone.
        metric: What values are of.
        val: The chosen candidate's value on the selection split, or what is believed of it.
        error: Its standard error.
        test: The mean over the retrained seeds.
        test_std: Their standard deviation.
        seeds: How many there are.
        params: Trainable parameters, head excluded.
        ppt: The test value weighed by them (see `petlas.search.objectives.base.ppt`).
        R: What the search cost.
        seconds: What it took by the clock.
        chosen: The candidate on one line.
    """

    name: str
    task: str
    backbone: str
    metric: Metric
    val: float | None
    error: float | None
    test: float | None
    test_std: float
    seeds: int
    params: int | None
    ppt: float | None
    R: float
    seconds: float
    chosen: str

    @classmethod
    def of(cls, view: RunView) -> RunRow:
        """The row of a run."""
        best, metric, retrained = view.best, view.metric, view.retrained or {}
        val, test = None if best is None else best.val, retrained.get("test_mean")
        shares = metric.percent and metric.maximize
        params = retrained.get("params", None if best is None else best.params)
        return cls(
            name=view.name,
            task=view.config.task.name,
            backbone=view.config.backbone.name,
            metric=metric,
            val=val,
            error=None if best is None or val is None else view.report.error(best),
            test=test,
            test_std=retrained.get("test_std", 0.0),
            seeds=len(retrained.get("seeds", ())),
            params=params,
            ppt=ppt(test, params) if shares and test is not None and params is not None else None,
            R=round(sum(cost for _, cost in view.costs), 2),
            seconds=view.elapsed,
            chosen="" if best is None else candidate_text(best.design, best.settings),
        )

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data; the metric by its name."""
        return asdict(self) | {"metric": self.metric.name}


def summaries(rows: Sequence[RunRow]) -> list[Summary]:
    """The mean over the runs where all have the same metric, and with all groups of VTAB theirs and the mean of these.

    Args:
        rows: The runs.
    """
    if len({row.metric for row in rows}) != 1:
        return []
    found = [_summary(title, own) for title, own in _groups(rows)]
    if len(found) == len(GROUPS):
        found.append(_summary("mean of groups", found))
    return [*found, _summary("mean", rows)]


def columns(views: Sequence[RunView]) -> tuple[str, ...]:
    """The heads of the columns of `compared`.

    Args:
        views: The runs.
    """
    of = unit(views[0].metric) if len({view.metric for view in views}) == 1 else ""
    return ("run", "task", "backbone", f"val{of}#", "error#", f"test{of}#", "PPT#", "params#", "R#", "time#", "design")


def note(views: Sequence[RunView]) -> str:
    """What the columns of `compared` mean.

    Args:
        views: The runs.
    """
    told = (
        "Errors are standard errors; a spread behind a value on test is the standard deviation over seeds. PPT weighs "
        "that value by size: value * exp(-log10(parameters / 10^7 + 1)). R is the price of one whole training."
    )
    if any(view.by_belief for view in views):
        told += " Of a search that measured on folds, val is what is believed by all trainings together."
    return told


def compared(views: Sequence[RunView]) -> list[tuple[str, ...]]:
    """A row of text for each run, and below them the means.

    Args:
        views: The runs.
    """
    rows = [RunRow.of(view) for view in views]
    return [*map(_cells, rows), *(_mean_cells(views[0].metric, mean) for mean in summaries(rows))]


def _mean_cells(metric: Metric, mean: Summary) -> tuple[str, ...]:
    values = (measured(metric, mean.val), "", measured(metric, mean.test), percent(mean.ppt))
    return (mean.title, "", "", *values, "", f"{mean.R:.1f}", "", "")


def _cells(row: RunRow) -> tuple[str, ...]:
    cells = (row.name, row.task, row.backbone, measured(row.metric, row.val), percent(row.error))
    test = "-" if row.test is None else spread(row.metric, row.test, row.test_std, row.seeds)
    params = "-" if row.params is None else f"{row.params:,}"
    cost = (f"{row.R:.1f}", duration(row.seconds))
    return (*cells, test, percent(row.ppt), params, *cost, row.chosen or "no trial has come to its end yet")


def _groups(rows: Sequence[RunRow]) -> Iterator[tuple[str, list[RunRow]]]:
    """The runs of each group of VTAB that has any; none where a run is of no group."""
    names = [PurePath(row.task).name for row in rows]
    names = [ALIASES.get(name, name) for name in names]
    if not all(any(name in group for group in GROUPS.values()) for name in names):
        return
    for title, group in GROUPS.items():
        own = [row for row, name in zip(rows, names, strict=True) if name in group]
        if own:
            yield f"{title} ({len(own)})", own


def _summary(title: str, rows: Sequence[RunRow | Summary]) -> Summary:
    val, test, weighed = (_mean([getattr(row, name) for row in rows]) for name in ("val", "test", "ppt"))
    return Summary(title, val, test, weighed, fmean(row.R for row in rows))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if known and len(known) == len(values) else None
