"""Choose the portfolio from recorded runs, greedily, and say what it would have been worth where it had not been made.

    cd benchmarks/portfolio
    python choose.py results.jsonl dinov2.jsonl --out ../../search/strategies/portfolio.yaml > portfolio.md

What counts is a task on a backbone. The next recipe is the one that adds most to the mean over them of the best
accuracy so far (Auto-sklearn 2, Feurer et al., 2022; Quick-Tune, Arango et al., 2024), and a tenth of its own mean:
what adds a little on one recorded task and is weak on all others helps no new one. Linear probing is apart, at the rate
that is best for it: it is always tried. Leave one task out, or one backbone: the portfolio of the others, its first
recipes, and the best of those where they were left out. Test accuracy chooses here, and one seed: what is learned is
the order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

Place = tuple[str, str]
"""A backbone and a task."""
Table = Mapping[Place, Mapping[str, float]]
"""The accuracy of each recipe, by its JSON, wherever it was recorded."""
LENGTH = 16
OWN = 0.1
"""What a recipe's own mean counts for, beside what it adds."""


HEAD = """\
# Recipes in the order in which `auto` tries them, after linear probing: methods with their share of the budget, and the
# learning rate as a factor of train.lr. Made by benchmarks/portfolio/choose.py of recorded runs: portfolio.md there.
"""
TAIL = """\
# What is expected of candidates before they are tried, by each backbone that was recorded: the mean accuracy over tasks
# of a set of methods at factors of train.lr, above the mean of all methods at their best; and what is lost (`curve`)
# where a rate is ten times beyond those.
"""
LR = "lr"
CHANGED = ("hflip", "shift")
"""Settings of recipes that change images: `augmented.py` reads those."""


def read(paths: Iterable[Path], tasks: Collection[str] = ()) -> Table:
    """The mean over seeds of recipes on images as they are; only those that all tasks of a backbone have.

    Args:
        paths: Of the recorded runs.
        tasks: Those that count; none for all.
    """
    runs: dict[Place, dict[str, list[float]]] = {}
    for row in (json.loads(line) for path in paths for line in path.read_text().splitlines()):
        if (not tasks or row["task"] in tasks) and not any(name in row["recipe"]["settings"] for name in CHANGED):
            place = row["backbone"], row["task"]
            runs.setdefault(place, {}).setdefault(json.dumps(row["recipe"]), []).append(row["test"])
    found: dict[Place, dict[str, float]] = {}
    for backbone in {backbone for backbone, _ in runs}:
        own = {place: rows for place, rows in runs.items() if place[0] == backbone}
        everywhere = set.intersection(*map(set, own.values()))
        found |= {place: {name: fmean(rows[name]) for name in sorted(everywhere)} for place, rows in own.items()}
    return {place: found[place] for place in runs}


def backbones(table: Table) -> dict[str, Table]:
    """The table of each backbone."""
    names = dict.fromkeys(backbone for backbone, _ in table)
    return {name: {place: own for place, own in table.items() if place[0] == name} for name in names}


def greedy(table: Table, length: int) -> list[str]:
    """Recipes with methods that were recorded everywhere, in the order in which they add most."""
    names = [name for name in common(table) if json.loads(name)["methods"]]
    found: list[str] = []
    while len(found) < min(length, len(names)):
        left = [name for name in names if name not in found]
        found.append(max(left, key=lambda name: worth(table, [*found, name]) + OWN * worth(table, [name])))
    return found


def linear(table: Table) -> str:
    """Linear probing at the rate with the best mean."""
    return max((n for n in common(table) if not json.loads(n)["methods"]), key=lambda name: worth(table, [name]))


def common(table: Table) -> list[str]:
    """The recipes that were recorded everywhere."""
    return sorted(set.intersection(*(set(own) for own in table.values())))


def worth(table: Table, names: Collection[str]) -> float:
    """The mean over tasks and backbones of the best recipe's accuracy."""
    return fmean(max(own[name] for name in names) for own in table.values())


def expected(table: Table) -> dict[str, Any]:
    """What candidates are worth on one backbone: the mean over tasks, in shares, at each factor of the rate.

    They are by the mean of all methods at their best. `curve` is what is lost by a rate that is ten times too high or
    too low: the mean over the methods that were recorded at three rates.
    """
    rows: dict[tuple[str, ...], dict[float, float]] = {}
    for name in common(table):
        recipe = json.loads(name)
        own, lr = rows.setdefault(tuple(sorted(recipe["methods"])), {}), recipe["settings"][LR]
        own[lr] = max(own.get(lr, 0.0), worth(table, [name]))  # prompts have a factor of their own beside
    middle = fmean(max(own.values()) for own in rows.values())
    three = [own for methods, own in rows.items() if methods and len(own) > 2]
    curve = fmean(-np.polyfit(np.log10([*own]), [*own.values()], 2)[0] for own in three)
    ranked = sorted(rows.items(), key=lambda row: -max(row[1].values()))
    methods = [
        {"methods": [*names], "worth": {lr: round(value - middle, 4) for lr, value in sorted(own.items())}}
        for names, own in ranked
    ]
    return {"curve": round(float(curve), 3), "methods": methods}


def told(name: str) -> str:
    """A recipe for people."""
    recipe = json.loads(name)
    methods = " + ".join(f"{method} {share:g}" for method, share in recipe["methods"].items()) or "linear"
    return f"{methods}, " + ", ".join(f"{key} x {value:g}" for key, value in recipe["settings"].items())


def _flow(data: Any) -> str:
    return yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=200).strip()


def written(table: Table, order: Iterable[str], probing: str) -> str:
    """The portfolio as a file."""
    lines = [HEAD + f"linear: {_flow(json.loads(probing))}", "recipes:"]
    lines += [f"  - {_flow(json.loads(name))}" for name in order]
    lines.append(TAIL + "expected:")
    for backbone, own in backbones(table).items():
        known = expected(own)
        lines += [f"  - backbone: {backbone}", f"    curve: {known['curve']}", "    methods:"]
        lines += [f"      - {_flow(row)}" for row in known["methods"]]
    return "\n".join(lines) + "\n"


def print_order(table: Table, order: list[str], probing: str) -> None:
    """What the portfolio's recipes gave on the tasks of one backbone."""
    print("| place | recipe | " + " | ".join(task for _, task in table) + " | mean | best so far |")
    print("|---|---|" + "---|" * (len(table) + 2))
    for place, name in enumerate([probing, *order]):
        cells = " | ".join(f"{100 * own[name]:.1f}" for own in table.values())
        mean, best = 100 * worth(table, [name]), 100 * worth(table, [probing, *order[:place]])
        print(f"| {place or ''} | {told(name)} | {cells} | {mean:.1f} | {best:.1f} |")


def left_out(table: Table, order: list[str]) -> list[float]:
    """The first recipe of an order, the best of its first 4 and 8, and of all, on tasks that it was not made of."""
    best = fmean(max(own.values()) for own in table.values())
    return [*(worth(table, order[:length]) for length in (1, 4, 8)), best]


def _means(rows: list[list[float]]) -> str:
    return " | ".join(f"{100 * fmean(column):.1f}" for column in zip(*rows, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="where the portfolio is written")
    parser.add_argument("--tasks", nargs="*", default=[], help="those that count; by default all")
    args = parser.parse_args()
    table = read(args.results, args.tasks)
    order, probing = greedy(table, LENGTH), linear(table)
    parts = backbones(table)
    print(f"{len(common(table))} recipes on {len(table)} tasks; test accuracy in percent, one seed.")
    for backbone, own in parts.items():
        print(f"\n{backbone}:\n")
        print_order(own, order, probing)
    print("\nLeft out: the first recipe of the others' portfolio, the best of its first 4 and 8, and of all.\n")
    print("| on | made of | first | best of 4 | best of 8 | best of all |\n|---|---|---|---|---|---|")
    for backbone, own in parts.items():
        others = {name: part for name, part in parts.items() if name != backbone}
        ways = {"all its other tasks": own, "all other tasks of all backbones": table, **others}
        for way, known in ways.items() if others else [("all its other tasks", own)]:
            rows = []
            for place, row in own.items():
                rest = {other: values for other, values in known.items() if other[1] != place[1]}
                rows.append(left_out({place: row}, greedy(rest, 8)))
            name = f"all other tasks on {way}" if way in others else way
            print(f"| {backbone} | {name} | {_means(rows)} |")
    if args.out:
        args.out.write_text(written(table, order, probing))


if __name__ == "__main__":
    main()
