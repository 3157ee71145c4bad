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
# What `auto` knows of other tasks, made by benchmarks/portfolio/choose.py of recorded runs (portfolio.md there).
# Recipes are in the order in which it tries them, after linear probing: methods with their share of the budget, and the
# learning rate as a factor of train.lr. A backbone that was recorded has its own. `expected` is the mean accuracy over
# tasks of a set of methods at factors of train.lr, above the mean of all methods at their best; `curve` is what is lost
# where a rate is ten times beyond those.
"""
LR = "lr"
CHANGED = ("hflip", "shift")
"""Settings of recipes that change images: `augmented.py` reads those."""


def read(paths: Iterable[Path], tasks: Collection[str] = ()) -> Table:
    """The mean over seeds of recipes on images as they are.

    Args:
        paths: Of the recorded runs.
        tasks: Those that count; none for all.
    """
    runs: dict[Place, dict[str, list[float]]] = {}
    for row in (json.loads(line) for path in paths for line in path.read_text().splitlines()):
        if (not tasks or row["task"] in tasks) and not any(name in row["recipe"]["settings"] for name in CHANGED):
            place = row["backbone"], row["task"]
            runs.setdefault(place, {}).setdefault(json.dumps(row["recipe"]), []).append(row["test"])
    return {place: {name: fmean(found) for name, found in own.items()} for place, own in runs.items()}


def backbones(table: Table) -> dict[str, Table]:
    """The table of each backbone."""
    names = dict.fromkeys(backbone for backbone, _ in table)
    return {name: {place: own for place, own in table.items() if place[0] == name} for name in names}


def greedy(table: Table, length: int) -> list[str]:
    """Recipes with methods in the order in which they add most.

    They were recorded on all tasks of a backbone at least; where one was not recorded, it adds nothing.
    """
    whole = {name for own in backbones(table).values() for name in common(own)}
    names = sorted(name for name in whole if json.loads(name)["methods"])
    best = {place: max(own.values()) for place, own in table.items()}
    behind = {name: fmean(own[name] - best[p] for p, own in table.items() if name in own) for name in names}
    found: list[str] = []
    while len(found) < min(length, len(names)):
        left = [name for name in names if name not in found]
        found.append(max(left, key=lambda name: worth(table, [*found, name]) + OWN * behind[name]))
    return found


def linear(table: Table) -> str:
    """Linear probing at the rate with the best mean."""
    return max((n for n in common(table) if not json.loads(n)["methods"]), key=lambda name: worth(table, [name]))


def common(table: Table) -> list[str]:
    """The recipes that were recorded everywhere."""
    return sorted(set.intersection(*(set(own) for own in table.values())))


def worth(table: Table, names: Collection[str]) -> float:
    """The mean over tasks and backbones of the best recipe's accuracy; nothing where none was recorded."""
    return fmean(max((own[name] for name in names if name in own), default=0.0) for own in table.values())


Worths = dict[tuple[str, ...], dict[float, float]]
"""For sets of methods the mean accuracy over tasks at factors of the rate."""


def worths(table: Table) -> Worths:
    """What was recorded everywhere."""
    found: Worths = {}
    for name in common(table):
        recipe = json.loads(name)
        own, lr = found.setdefault(tuple(sorted(recipe["methods"])), {}), recipe["settings"][LR]
        own[lr] = max(own.get(lr, 0.0), worth(table, [name]))  # prompts have a factor of their own beside
    return found


def curve(table: Table) -> float:
    """What is lost by a rate ten times too high or too low: the mean over methods that have three, on each backbone."""
    found = [own for part in backbones(table).values() for methods, own in worths(part).items() if methods]
    return fmean(-np.polyfit(np.log10([*own]), [*own.values()], 2)[0] for own in found if len(own) > 2)


def expected(table: Table) -> list[dict[str, Any]]:
    """What candidates are worth on one backbone, in shares, by the mean of all methods at their best."""
    found = worths(table)
    middle = fmean(max(own.values()) for own in found.values())
    return [
        {"methods": [*names], "worth": {lr: round(value - middle, 4) for lr, value in sorted(own.items())}}
        for names, own in sorted(found.items(), key=lambda row: -max(row[1].values()))
    ]


def told(name: str) -> str:
    """A recipe for people."""
    recipe = json.loads(name)
    methods = " + ".join(f"{method} {share:g}" for method, share in recipe["methods"].items()) or "linear"
    return f"{methods}, " + ", ".join(f"{key} x {value:g}" for key, value in recipe["settings"].items())


def _flow(data: Any) -> str:
    return yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=200).strip()


def written(table: Table, order: Iterable[str], probing: str) -> str:
    """The portfolio as a file."""
    lines = [HEAD + f"linear: {_flow(json.loads(probing))}", "recipes:", *_listed(map(json.loads, order))]
    lines += [f"curve: {curve(table):.3f}", "backbones:"]
    for backbone, own in backbones(table).items():
        lines += [f"  {backbone}:", "    recipes:", *_listed(map(json.loads, greedy(own, LENGTH)), 6)]
        lines += ["    expected:", *_listed(expected(own), 6)]
    return "\n".join(lines) + "\n"


def _listed(rows: Iterable[Mapping[str, Any]], indent: int = 2) -> list[str]:
    return [" " * indent + f"- {_flow(row)}" for row in rows]


def print_order(table: Table, order: list[str], probing: str) -> None:
    """What a portfolio's recipes gave on the tasks of one backbone that all of them were recorded on."""
    print("| place | recipe | " + " | ".join(task for _, task in table) + " | mean | best so far |")
    print("|---|---|" + "---|" * (len(table) + 2))
    for place, name in enumerate([probing, *order]):
        cells = " | ".join(f"{100 * own[name]:.1f}" for own in table.values())
        mean, best = 100 * worth(table, [name]), 100 * worth(table, [probing, *order[:place]])
        print(f"| {place or ''} | {told(name)} | {cells} | {mean:.1f} | {best:.1f} |")


def print_means(parts: Mapping[str, Table], order: list[str]) -> None:
    """What a portfolio's recipes gave on each backbone."""
    print("| place | recipe | " + " | ".join(f"{name} | best so far" for name in parts) + " |")
    print("|---|---|" + "---|---|" * len(parts))
    for place, name in enumerate(order, start=1):
        cells = []
        for own in parts.values():
            mean = f"{100 * worth(own, [name]):.1f}" if name in common(own) else ""
            cells.append(f"{mean} | {100 * worth(own, order[:place]):.1f}")
        print(f"| {place} | {told(name)} | {' | '.join(cells)} |")


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
    print("Test accuracy in percent, one seed.")
    for backbone, own in parts.items():
        print(f"\n{backbone}, {len(common(own))} recipes on {len(own)} tasks:\n")
        print_order(own, greedy(own, LENGTH), linear(own))
    print("\nFor any other backbone, with the mean on each that was recorded:\n")
    print_means(parts, order)
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
