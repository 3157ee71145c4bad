"""Choose the portfolio from recorded runs, greedily, and say what it would have been worth on tasks it had not seen.

    python benchmarks/portfolio/choose.py benchmarks/portfolio/results.jsonl --out search/strategies/portfolio.yaml \\
        > benchmarks/portfolio/portfolio.md

The next recipe is the one that adds most to the mean over tasks of the best accuracy so far (Auto-sklearn 2, Feurer et
al., 2022; Quick-Tune, Arango et al., 2024), and a tenth of its own mean: what adds a little on one recorded task and is
weak on all others helps no new one. Linear probing is apart, at the rate that is best for it: it is always tried. Leave
one task out: the portfolio of the others, its first recipes, and the best of those on the task that was left out. Test
accuracy chooses here, and one seed: what is learned is the order.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

Table = Mapping[str, Mapping[str, float]]
"""For each task the accuracy of each recipe, by its JSON."""
LENGTH = 16
OWN = 0.1
"""What a recipe's own mean counts for, beside what it adds."""


HEAD = """\
# Recipes in the order in which `auto` tries them, after linear probing: methods with their share of the budget, and the
# learning rate as a factor of train.lr. Made by benchmarks/portfolio/choose.py of recorded runs: portfolio.md there.
"""
TAIL = """\
# What is expected of candidates before they are tried: for a set of methods the rate that was best for it, and its mean
# accuracy over tasks there, above the mean of all; and what a rate costs that is ten times too high or too low.
"""
LR = "lr"
_BEYOND = 0.25  # decades


def read(path: Path, tasks: Iterable[str]) -> Table:
    """The mean over seeds; only recipes that every task has.

    Args:
        path: Of the recorded runs.
        tasks: Those that count; none for all.
    """
    runs: dict[str, dict[str, list[float]]] = {}
    wanted = set(tasks)
    for row in map(json.loads, path.read_text().splitlines()):
        if wanted and row["task"] not in wanted:
            continue
        runs.setdefault(row["task"], {}).setdefault(json.dumps(row["recipe"]), []).append(row["test"])
    everywhere = set.intersection(*(set(own) for own in runs.values()))
    return {task: {name: fmean(own[name]) for name in sorted(everywhere)} for task, own in runs.items()}


def greedy(table: Table, length: int) -> list[str]:
    """Recipes with methods, in the order in which they add most."""
    names = [name for name in next(iter(table.values())) if json.loads(name)["methods"]]
    found: list[str] = []
    while len(found) < min(length, len(names)):
        left = [name for name in names if name not in found]
        found.append(max(left, key=lambda name: _worth(table, [*found, name]) + OWN * _worth(table, [name])))
    return found


def linear(table: Table) -> str:
    """Linear probing at the rate with the best mean."""
    names = [name for name in next(iter(table.values())) if not json.loads(name)["methods"]]
    return max(names, key=lambda name: _worth(table, [name]))


def _worth(table: Table, names: Iterable[str]) -> float:
    """The mean over tasks of the best recipe's accuracy."""
    names = list(names)
    return fmean(max(own[name] for name in names) for own in table.values())


def expected(table: Table) -> dict[str, Any]:
    """What candidates are worth across tasks: for each set of methods its best rate and its mean there, in shares.

    Means are by that of all of them. `curve` is what a rate ten times too high or too low costs: the mean over the
    methods that were recorded at three rates. The best rate of each is the vertex of such a parabola through its two
    best ones.
    """
    rows: dict[tuple[str, ...], dict[float, float]] = {}
    for name in next(iter(table.values())):
        recipe = json.loads(name)
        own, lr = rows.setdefault(tuple(sorted(recipe["methods"])), {}), math.log10(recipe["settings"][LR])
        own[lr] = max(own.get(lr, 0.0), _worth(table, [name]))  # prompts have a factor of their own beside
    curve = fmean(
        -np.polyfit([*own], [*own.values()], 2)[0] for methods, own in rows.items() if methods and len(own) > 2
    )
    best = {methods: _vertex(own, curve) for methods, own in rows.items()}
    middle = fmean(value for _, value in best.values())
    methods = [
        {"methods": [*names], LR: round(10**rate, 2), "worth": round(value - middle, 4)}
        for names, (rate, value) in sorted(best.items(), key=lambda row: -row[1][1])
    ]
    return {"curve": round(curve, 3), "methods": methods}


def _vertex(own: Mapping[float, float], curve: float) -> tuple[float, float]:
    """The best rate, not far beyond the best two of the recorded ones, and the value there, of a parabola through them.

    Args:
        own: The value at the decimal logarithm of each rate.
        curve: What is lost a decade away from the best.
    """
    rates, values = np.array(sorted(own.items(), key=lambda item: -item[1])[:2]).T
    slope = float(np.polyfit(rates, values + curve * rates**2, 1)[0]) if len(own) > 1 else 2 * curve * rates[0]
    rate = float(np.clip(slope / (2 * curve), rates.min() - _BEYOND, rates.max() + _BEYOND))
    return rate, float((values + curve * (rates - rate) ** 2).mean())


def told(name: str) -> str:
    """A recipe for people."""
    recipe = json.loads(name)
    methods = " + ".join(f"{method} {share:g}" for method, share in recipe["methods"].items()) or "linear"
    return f"{methods}, " + ", ".join(f"{key} x {value:g}" for key, value in recipe["settings"].items())


def _line(name: str) -> str:
    return yaml.safe_dump(json.loads(name), default_flow_style=True, sort_keys=False, width=200).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, help="where the portfolio is written")
    parser.add_argument("--tasks", nargs="*", default=[], help="those that count; by default all")
    args = parser.parse_args()
    table = read(args.results, args.tasks)
    order, probing = greedy(table, LENGTH), linear(table)
    tasks = list(table)
    print(f"{len(next(iter(table.values())))} recipes on {len(tasks)} tasks; test accuracy in percent, one seed.\n")
    print("| place | recipe | " + " | ".join(tasks) + " | mean | best so far |")
    print("|---|---|" + "---|" * (len(tasks) + 2))
    for place, name in enumerate([probing, *order]):
        own = " | ".join(f"{100 * table[task][name]:.1f}" for task in tasks)
        mean, best = 100 * _worth(table, [name]), 100 * _worth(table, [probing, *order[:place]])
        print(f"| {place or ''} | {told(name)} | {own} | {mean:.1f} | {best:.1f} |")
    print("\nLeave one task out: the first of the others' portfolio, the best of its first 4 and 8, and of all.\n")
    print("| task | first | best of 4 | best of 8 | best of all |\n|---|---|---|---|---|")
    rows = []
    for task in tasks:
        others = greedy({name: own for name, own in table.items() if name != task}, 8)
        row = [table[task][others[0]], *(max(table[task][n] for n in others[:k]) for k in (4, 8))]
        rows.append([*row, max(table[task].values())])
        print(f"| {task} | " + " | ".join(f"{100 * value:.1f}" for value in rows[-1]) + " |")
    print("| mean | " + " | ".join(f"{100 * fmean(column):.1f}" for column in zip(*rows, strict=True)) + " |")
    if args.out:
        first, *lines = (_line(name) for name in [probing, *order])
        known = expected(table)
        worths = "".join(f"    - {yaml.safe_dump(row, default_flow_style=True, width=200)}" for row in known["methods"])
        text = HEAD + f"linear: {first}\nrecipes:\n" + "".join(f"  - {line}\n" for line in lines)
        args.out.write_text(text + TAIL + f"expected:\n  curve: {known['curve']}\n  methods:\n{worths}")


if __name__ == "__main__":
    main()
