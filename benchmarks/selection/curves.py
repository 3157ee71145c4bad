"""Record what short and whole trainings tell, image by image: what `replay.py` searches in, again and again.

    PYTHONPATH=benchmarks/portfolio python benchmarks/selection/curves.py --out benchmarks/selection/curves.jsonl

The drawn tasks of the portfolio, with 1,500 test images, so that a replay can take some of them for a fold's and others
for the truth. Every recipe is trained on train and val for 1, 3 and 9 epochs, each with a schedule of its own, as in
`auto`. What is in --out is not done again: the command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import BUDGET, LR, space_of
from tasks import DRAWN, write

from petlas.petl import MINI
from petlas.search.config import RunConfig
from petlas.search.predict import all_outputs
from petlas.search.stages.training_run import TrainingRun
from petlas.search.strategies.recipes import Recipe
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench

TEST = 1500
LENGTHS = (9, 1, 3)
CL = {"convpass": 0.5, "lora": 0.5}
RECIPES: tuple[dict[str, Any], ...] = (
    {"methods": CL, "settings": {"lr": 3.0}},
    {"methods": {"ssf": 1.0}, "settings": {"lr": 3.0}},
    {"methods": {}, "settings": {"lr": 10.0}},
    {"methods": CL, "settings": {"lr": 1.7}},
    {"methods": CL, "settings": {"lr": 5.2}},
    {"methods": {"lora": 0.5, "adapter": 0.5}, "settings": {"lr": 3.0}},
    {"methods": {"convpass": 1.0}, "settings": {"lr": 3.0}},
    {"methods": {"lora": 1.0}, "settings": {"lr": 3.0}},
    {"methods": CL, "settings": {"lr": 3.0, "lr.head": 3.0}},
    {"methods": {"adaptformer": 1.0}, "settings": {"lr": 10.0}},
    {"methods": {"ssf": 1.0}, "settings": {"lr": 5.2}},
    {"methods": {"bitfit": 1.0}, "settings": {"lr": 5.2}},
)


def bench_of(task: str, folder: Path, epochs: int) -> Workbench:
    """The workbench of a drawn task."""
    data = {
        "name": f"curves-{task}",
        "task": {"name": str(write(task, folder / "drawn", test=TEST))},
        "backbone": MINI,
        "space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}},
        "budget": {"params": BUDGET},
        "train": {"epochs": epochs, "batch_size": 32, "lr": LR, "warmup_epochs": 1},
        "resources": {"runner": "inline", "gpus": 0.0},
        "runs": str(folder),
    }
    return Workbench(RunConfig.model_validate(data))


def curve(bench: Workbench, recipe: Recipe, epochs: int) -> dict[str, Any]:
    """Which of the test images one training tells right, as hexadecimal digits, and what its losses were."""
    candidate = recipe.candidate(space_of(recipe), bench.budget, {"lr": LR, "lr.head": 1.0})
    run, start = TrainingRun(bench, candidate, Fidelity(epochs, 0), "trainval", None), time.process_time()
    losses = []
    while not run.finished:
        losses.append(round(run.epoch().loss, 4))
    test = bench.task.views["test"]
    right = all_outputs(run.model, bench.batches(test), bench.device).argmax(1) == torch.tensor(test.targets)
    bits = np.packbits(right.numpy()).tobytes().hex()
    return {
        "params": bench.cost(candidate.design),
        "losses": losses,
        "right": bits,
        "value": round(float(right.float().mean()), 4),
        "seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/curves"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("curves.jsonl"))
    parser.add_argument("--tasks", nargs="*", default=[*DRAWN])
    parser.add_argument("--recipes", type=int, default=len(RECIPES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(row["task"], json.dumps(row["recipe"]), row["epochs"]) for row in map(json.loads, lines)}
    benches = {task: bench_of(task, args.runs, max(LENGTHS)) for task in args.tasks}
    for recipe in RECIPES[: args.recipes]:
        for task, bench in benches.items():
            for epochs in LENGTHS:
                if (task, json.dumps(recipe), epochs) not in done:
                    found = curve(bench, Recipe.from_dict(recipe), epochs)
                    with args.out.open("a") as file:
                        file.write(json.dumps({"task": task, "recipe": recipe, "epochs": epochs} | found) + "\n")


if __name__ == "__main__":
    main()
