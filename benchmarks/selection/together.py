"""What the options of `retrain` are worth that use several seeds of one candidate: means over tasks, in points.

    PYTHONPATH=benchmarks/portfolio python benchmarks/selection/together.py > benchmarks/selection/together.md

On drawn tasks with 1,500 test images: the portfolio's first candidate, trained for 9 epochs on train and val with three
seeds; their ensemble, the average of their weights, and a fourth training that is taught by the ensemble. What is in
--out is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev

import torch
from curves import RECIPES, bench_of
from record import LR, space_of
from tasks import DRAWN

from petlas.files import write_json
from petlas.search.retraining import retrain
from petlas.search.strategies.recipes import Recipe

SEEDS = 3
WAYS = ("ensemble", "average", "distilled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/together"))
    parser.add_argument("--tasks", nargs="*", default=[*DRAWN])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    file, recipe = args.out / "together.json", Recipe.from_dict(RECIPES[0])
    rows: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    for task in args.tasks:
        if task not in rows:
            bench = bench_of(task, args.out, 9)
            candidate = recipe.candidate(space_of(recipe), bench.budget, {"lr": LR})
            found = retrain(bench.config, candidate, SEEDS, together=True, distil=True)
            rows[task] = {"single": found.test_mean} | found.together
            write_json(file, rows)
    names = [task for task in args.tasks if task in rows]
    print(f"| | {' | '.join(names)} | mean | to the single |\n|---|{'---|' * (len(names) + 2)}")
    for way in ("single", *WAYS):
        values = [100 * rows[task][way] for task in names]
        gains = [100 * (rows[task][way] - rows[task]["single"]) for task in names]
        error = f" ± {stdev(gains) / math.sqrt(len(gains)):.2f}" if len(gains) > 1 else ""
        told = " | ".join(f"{value:.1f}" for value in values)
        print(f"| {way} | {told} | {fmean(values):.2f} | {fmean(gains):+.2f}{error} |")


if __name__ == "__main__":
    main()
