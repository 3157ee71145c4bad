"""Tables for people: what the command line prints without `--format json`."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from petlas.petl.design import Design

console = Console(width=None if sys.stdout.isatty() else 160)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table; columns whose name ends in `#` are aligned to the right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        right = name.endswith("#")
        drawn.add_column(name.removesuffix("#"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


def percent(value: float | None) -> str:
    """An accuracy in percent, `-` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def study_table(study: Mapping[str, Any], val_images: int | None) -> None:
    """Print the trials of a study, its Pareto front and its best trial."""
    best, front = study["best"], {row["number"] for row in study["pareto"]}
    rows = [
        (
            str(row["number"]) + ("*" if row["number"] in front else ""),
            row["state"],
            row["stage"],
            percent(row["val"]),
            f"{row['params']:,}",
            str(row["epochs"]),
            f"{row['seconds']:.0f}",
            str(Design.from_dict(row["design"])) if row["design"] else "",
        )
        for row in study["trials"]
    ]
    table(("trial#", "state", "stage", "val %#", "params#", "epochs#", "seconds#", "design"), rows)
    console.print("* on the Pareto front of accuracy and parameters", style="dim")
    if "ranking" in study:
        ranking_lines(study["ranking"])
    if best is None:
        console.print("no trial has come to its end yet")
        return
    error = ""
    if val_images:
        p = best["val"]
        error = f" (standard error {100 * math.sqrt(p * (1 - p) / val_images):.1f} points on {val_images} images)"
    console.print(
        f"best: trial {best['number']} with {percent(best['val'])}% on val{error}, {best['params']:,} parameters: "
        f"{Design.from_dict(best['design'])}"
    )


def ranking_lines(ranking: Mapping[str, Any]) -> None:
    """Print how well supernet scores rank designs, with a scatter plot."""
    lost = ", ".join(f"{100 * value:.1f} points with the best {top}" for top, value in ranking["regret"].items())
    console.print(
        f"supernet scores rank {len(ranking['points'])} stand-alone designs with Kendall's tau {ranking['tau']:.2f} "
        f"(95% interval {ranking['low']:.2f} to {ranking['high']:.2f}); trusting them loses {lost}"
    )
    if not ranking["low"] > 0:
        console.print("warning: the interval includes 0: on this evidence scores rank no better than chance")
    print(scatter([(score, val) for _, score, val in ranking["points"]]))


def scatter(points: Sequence[tuple[float, float]], width: int = 60, height: int = 14) -> str:
    """A plot of accuracies against scores, in characters; a digit is how many points share a place."""
    xs, ys = zip(*points, strict=True)

    def place(value: float, values: Sequence[float], cells: int) -> int:
        span = max(values) - min(values)
        return round((value - min(values)) / span * (cells - 1)) if span else (cells - 1) // 2

    counts = Counter((place(x, xs, width), place(y, ys, height)) for x, y in points)
    lines = []
    for row in reversed(range(height)):
        label = percent(max(ys)) if row == height - 1 else percent(min(ys)) if row == 0 else ""
        cells = (counts.get((column, row), 0) for column in range(width))
        lines.append(f"{label:>6} |" + "".join(" " if not n else "o" if n == 1 else str(min(n, 9)) for n in cells))
    left, right = percent(min(xs)), percent(max(xs))
    axis = f"{'':>6} +{'-' * width}\n{'val %':>6}  {left}{'score %':^{width - len(left) - len(right)}}{right}"
    return "\n".join(line.rstrip() for line in lines) + "\n" + axis


def sensitivity_tables(report: Mapping[str, Any]) -> None:
    """Print the share of each operation of each block in the sensitivity, and the designs of the budgets."""
    operations = list(report["sites"][0])
    total = sum(sum(site.values()) for site in report["sites"]) or 1.0
    rows = [
        (str(block), *(f"{100 * value / total:.2f}" for value in site.values()))
        for block, site in enumerate(report["sites"])
    ]
    table(
        ("block#", *(f"{operation}#" for operation in operations)),
        rows,
        title=f"sensitivity of {report['task']} to {report['backbone']}, in percent of all",
    )
    took = report["seconds"]
    console.print(f"gradients {took['gradients']:.1f} s, all after them {took['after']:.1f} s", style="dim")
    designs = [(f"{d['budget']:,}", f"{d['params']:,}", str(Design.from_dict(d["design"]))) for d in report["designs"]]
    table(("budget#", "params#", "design"), designs)


def plan_table(name: str, plan: Mapping[str, Any]) -> None:
    """Print what a search would cost."""
    total = {key: sum(stage[key] for stage in plan["stages"]) for key in ("trials", "R", "seconds")}
    rows = [*plan["stages"], {"stage": "all, one after the other"} | total]
    table(
        ("stage", "trials#", "R#", "time#"),
        [(row["stage"], f"{row['trials']:,}", f"{row['R']:.1f}", duration(row["seconds"])) for row in rows],
        title=f"{name}: at most",
    )
    params = plan["params"]
    span = f"{params['smallest']:,} to {params['largest']:,} parameters"
    budget = "no budget" if params["budget"] is None else f"budget {params['budget']:,}"
    console.print(f"1 R: one training run at full epochs, {duration(plan['R_seconds'])} on one worker of this machine")
    console.print(f"designs: {plan['designs']:,}, of {span}; {budget}")
    console.print(f"backbone: {plan['flops'] / 1e9:.2f} GFLOPs for an image; disk: {plan['disk'] / 1e9:.2f} GB")


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def outcome_table(outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Print retrained designs: accuracy on val and test, and parameters."""
    rows = []
    for outcome in outcomes:
        spread = f" ± {100 * outcome['test_std']:.1f}" if len(outcome["seeds"]) > 1 else ""
        design = str(Design.from_dict(outcome["design"]))
        test = percent(outcome["test_mean"]) + spread
        rows.append((outcome["name"], percent(outcome["val"]), test, f"{outcome['params']:,}", design))
    table(("", "val %#", "test %#", "params#", "design"), rows)
