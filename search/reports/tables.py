"""Tables for people: what the command line prints without `--format json`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from petlas.petl.design import Design
from petlas.search.objectives import Metric
from petlas.search.reports.text import (
    USUAL,
    candidate_text,
    duration,
    error_text,
    measured,
    percent,
    shown,
    spread,
    unit,
)

_NARROWEST = 80
"""Columns of a terminal: a narrower one breaks the lines itself, and nothing is cut off."""


def console() -> Console:
    """Where results are printed: names are data, in which no markup and no emoji is meant."""
    width = max(_NARROWEST, Console().width) if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, emoji=False)


def show(*parts: RenderableType) -> None:
    """Print texts and tables, each on lines of its own."""
    where = console()
    for part in parts:
        where.print(part)


def drawn(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table; columns whose name ends in `#` are aligned to the right.

    Args:
        columns: Their names.
        rows: As many cells each; what a terminal could not show is escaped.
        title: Above it.
    """
    found = Table(title=None if title is None else shown(title), title_justify="left", box=None, pad_edge=False)
    for name in columns:
        right = name.endswith("#")
        found.add_column(name.removesuffix("#"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        found.add_row(*map(shown, row))
    return found


def sensitivity_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """The share of each operation of each block in the sensitivity, and the designs of the budgets."""
    operations = list(dict.fromkeys(operation for site in report["sites"] for operation in site))
    total = sum(sum(site.values()) for site in report["sites"]) or 1.0
    rows = [
        (str(block), *(f"{100 * site.get(operation, 0.0) / total:.2f}" for operation in operations))
        for block, site in enumerate(report["sites"])
    ]
    took = report["seconds"]
    designs = [(f"{d['budget']:,}", f"{d['params']:,}", str(Design.from_dict(d["design"]))) for d in report["designs"]]
    title = f"sensitivity of {report['task']} to {report['backbone']}, in percent of all"
    return [
        drawn(("block#", *(f"{operation}#" for operation in operations)), rows, title),
        f"gradients {took['gradients']:.1f} s, all after them {took['after']:.1f} s",
        drawn(("budget#", "params#", "design"), designs),
    ]


def plan_tables(name: str, plan: Mapping[str, Any]) -> list[RenderableType]:
    """What a search would cost.

    Args:
        name: The run's.
        plan: As plain data.
    """
    total = {key: sum(stage[key] for stage in plan["stages"]) for key in ("trials", "R", "seconds")}
    rows = [*plan["stages"], {"stage": "all, one after the other"} | total]
    at_once = max((stage["workers"] for stage in plan["stages"]), default=1)
    params = plan["params"]
    span = f"{params['smallest']:,} to {params['largest']:,} parameters"
    budget = "no budget" if params["budget"] is None else f"budget {params['budget']:,}"
    return [
        drawn(
            ("stage", "trials#", "R#", "time#"),
            [(row["stage"], f"{row['trials']:,}", f"{row['R']:.1f}", duration(row["seconds"])) for row in rows],
            f"{name}: at most",
        ),
        f"in all at most {duration(plan['seconds'])}, up to {at_once} at a time",
        f"1 R: one training run at full epochs, {duration(plan['R_seconds'])} on one worker of this machine",
        f"designs: {plan['designs']:,}, of {span}; {budget}",
        *(_step_line(name, plan["steps"][name]) for name in plan["steps"]),
        f"backbone: {plan['flops'] / 1e9:.2f} GFLOPs for an image; disk: {plan['disk'] / 1e9:.2f} GB",
        *(
            [f"no activations are kept, as the backbone does not run in parts: {plan['gap']}"]
            if plan.get("gap")
            else []
        ),
    ]


def _step_line(name: str, costs: Mapping[str, Any]) -> str:
    """What the steps of the smallest and the largest design cost, of one kind."""
    scale, unit = _STEP_UNITS[name]
    low, high = (_rounded(costs[which] / scale) for which in ("smallest", "largest"))
    budget = "" if costs["budget"] is None else f"; budget.{name} {_rounded(costs['budget'] / scale)}"
    return f"a training step: {low} to {high} {unit}{budget}"


def _rounded(value: float) -> str:
    """Three digits, without a power of ten."""
    if 0 < value < 0.001:
        return "less than 0.001"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


_STEP_UNITS = {"flops": (1e9, "GFLOPs for an image"), "latency_ms": (1, "ms"), "train_memory_gb": (1, "GiB")}


def outcome_table(outcomes: Sequence[Mapping[str, Any]], metric: Metric = USUAL) -> Table:
    """Retrained designs: what the search compared them by, their values on test, and parameters.

    Args:
        outcomes: As plain data.
        metric: What was measured.
    """
    believed = any(outcome.get("believed") for outcome in outcomes)
    rows = [
        (
            outcome["name"],
            measured(metric, outcome["val"]),
            *([measured(metric, outcome["val_error"])] if believed else []),
            spread(metric, outcome["test_mean"], outcome["test_std"], len(outcome["seeds"])),
            f"{outcome['params']:,}",
            candidate_text(outcome["design"], outcome.get("settings", {})),
        )
        for outcome in outcomes
    ]
    searched = [f"believed{unit(metric)}#", "error#"] if believed else [f"val{unit(metric)}#"]
    return drawn(("", *searched, f"test{unit(metric)}#", "params#", "design"), rows)


def methods_tables(rows: Sequence[Mapping[str, Any]], backbone: str) -> list[RenderableType]:
    """What `petlas methods` lists: the methods that a backbone takes, and behind them why it does not take the others.

    Args:
        rows: As plain data.
        backbone: The timm name that sizes and counts are for.
    """
    columns = ("method", "size", "params#", "zero-start", "mergeable", "what", "paper")
    cells = [
        (
            row["method"],
            "" if row["size"] is None else f"{row['size']} ({row['size_means']})",
            "-" if row["params"] is None else f"{row['params']:,}",
            "yes" if row["zero_start"] else "no",
            "yes" if row["mergeable"] else "no",
            row["summary"],
            row["paper"],
        )
        for row in rows
        if not row.get("refused")
    ]
    refused: dict[str, list[str]] = {}
    for row in rows:
        if message := row.get("refused"):
            refused.setdefault(_reason(message), []).append(row["method"])
    notes = [f"not on {backbone}: {', '.join(names)}: {why}" for why, names in refused.items()]
    return [drawn(columns, cells, f"at default size on {backbone}, head excluded"), *notes]


def _reason(refused: str) -> str:
    """What several refusals have in common: why a site is not there, without the method and its sites."""
    return refused.partition(": ")[2].removesuffix("; choose another method") or refused


def datasets_tables(rows: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """What `petlas datasets` lists, what is odd about what it found, and what it would know and did not find."""

    def cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
        counts = ", ".join(f"{name} {count:,}" for name, count in row["counts"].items())
        return row["name"], row["fault"] or "ok", str(row["num_classes"] or ""), counts

    notes = [shown(f"{row['name']}: {note}") for row in rows for note in row["notes"]]
    if gone := [row["name"] for row in rows if not row["found"]]:
        notes.append(f"known by name, and not found: {', '.join(gone)}")
    return [drawn(("task", "", "classes#", "images"), [cells(row) for row in rows if row["found"]]), *notes]


def evaluation_tables(found: Mapping[str, Any]) -> list[RenderableType]:
    """What `petlas evaluate` found: metrics, and class by class.

    Args:
        found: As plain data.
    """
    rows = found["per_class"]
    shares = [name for name, value in rows[0].items() if name not in ("class", "images", "taken_for")]
    taken = [name for name in ("taken_for",) if name in rows[0]]
    cells = [
        (
            row["class"],
            f"{row['images']:,}",
            *(percent(row[name]) for name in shares),
            *(row[name] or "" for name in taken),
        )
        for row in rows
    ]
    told = [
        f"{name} {percent(value)}%{error_text(found['errors'].get(name), found['images'])}"
        for name, value in found["metrics"].items()
    ]
    columns = ("class", "images#", *(f"{name.replace('_', ' ')} %#" for name in shares), *("taken for" for _ in taken))
    title = f"{found['task']}, {found['view']}: {found['images']:,} images"
    return [
        drawn(columns, cells, title),
        *told,
        f"expected calibration error {percent(found['calibration']['ece'])}%",
        f"PPT {percent(found['ppt'])}% with {found['params']:,} parameters",
    ]
