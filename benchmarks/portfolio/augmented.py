"""What it is worth to change images at random, from recorded runs: `petlas.search.selection.changes` holds the rest.

    cd benchmarks/portfolio
    for n in 8000 2400; do
      python record.py --root DATA --factors --augmented convpass --passes $n --out augmented-$n.jsonl
    done
    python augmented.py > augmented.md

A strong recipe on images that are mirrored, moved by up to 8% of their sides, or both, beside the same on images as
they are: test accuracy in points, one seed. On the mini backbone convpass, in a training (results.jsonl) and in one of
a third of its steps (short.jsonl); on DINOv2 LoRA (dinov2.jsonl).
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

HERE = Path(__file__).parent
WAYS = {"mirrored": {"hflip"}, "moved": {"shift"}, "both": {"hflip", "shift"}}
Table = dict[tuple[str, frozenset[str]], float]
"""The accuracy on each task, by the settings that change images."""


def read(method: str, *names: str) -> Table:
    """What was recorded of a method alone at three times the run's rate."""
    rows: list[dict[str, Any]] = [json.loads(line) for name in names for line in (HERE / name).read_text().splitlines()]
    found = {}
    for row in rows:
        settings = row["recipe"]["settings"]
        if row["recipe"]["methods"] == {method: 1.0} and settings["lr"] == 3.0:
            found[row["task"], frozenset(settings) - {"lr"}] = 100 * row["test"]
    return found


def show(tables: dict[str, Table]) -> None:
    """Print some tables of the same tasks below each other."""
    tasks = sorted({task for table in tables.values() for task, changed in table if changed})
    print(f"| images | {' | '.join(tasks)} | median | mean |\n|---|{'---|' * (len(tasks) + 2)}")
    for told, table in tables.items():
        plain = [table[task, frozenset()] for task in tasks]
        print(f"| as they are{told} | {' | '.join(f'{value:.1f}' for value in plain)} | | {fmean(plain):.1f} |")
        for way, changed in WAYS.items():
            gains = [table[task, frozenset(changed)] - value for task, value in zip(tasks, plain, strict=True)]
            cells = " | ".join(f"{gain:+.1f}" for gain in gains)
            print(f"| {way}{told} | {cells} | {median(gains):+.1f} | {fmean(gains):+.1f} |")


def main() -> None:
    whole = read("convpass", "results.jsonl", "augmented-8000.jsonl")
    short = read("convpass", "short.jsonl", "augmented-2400.jsonl")
    show({"": whole, ", a third of the steps": short})
    print("\nWhat a third of the steps tells less than all:\n")
    print("| images | mean | standard deviation |\n|---|---|---|")
    tasks = sorted({task for task, changed in whole if changed})
    for way, changed in WAYS.items():
        off = []
        for task in tasks:
            long, brief = (table[task, frozenset(changed)] - table[task, frozenset()] for table in (whole, short))
            off.append(long - brief)
        print(f"| {way} | {fmean(off):.1f} | {stdev(off):.1f} |")
    print("\nLoRA on DINOv2:\n")
    show({"": read("lora", "dinov2.jsonl")})


if __name__ == "__main__":
    main()
