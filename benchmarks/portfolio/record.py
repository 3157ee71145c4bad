"""Train recipes on tasks, one run each, and record their test accuracy: what the portfolio is made of.

    python benchmarks/portfolio/record.py --root DATA --tasks-dir runs/drawn --out benchmarks/portfolio/results.jsonl
    python benchmarks/portfolio/record.py --root DATA --tasks-dir runs/drawn --out benchmarks/portfolio/dinov2.jsonl \\
        --backbone vit_small_patch14_dinov2 --checkpoint dinov2_vits14_fp16.safetensors --size 70 --budget 150000 \\
        --lr 1e-3 --batch-size 64 --passes 4000 --augmented lora

--root holds vtab-1k/{emoji_group,mnist,dsprites_loc}; drawn tasks are made in --tasks-dir. Every run learns from train
and val, has the same number of image passes on every task, and is tested once. What is in --out is not done again, so
the command goes on where it was cut off. Processes with --part 1/N to N/N, each with an --out of its own, share the
runs between them: the files are joined line by line. `choose.py` makes the portfolio of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tasks import DRAWN, write

from petlas.petl import MINI, BackboneShape, get_method, shape_by_name
from petlas.search.config import RunConfig
from petlas.search.stages.training_run import TrainingRun
from petlas.search.strategies.recipes import Recipe
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Space

SHARED = ("emoji_group", "mnist", "dsprites_loc")
LR = 3e-3
"""The run's own rate on the mini backbone, of which recipes have a factor."""
FACTORS = (3.0, 1.0, 10.0)
"""A third of the rate was recorded for the first five methods, too, and was far behind on every task."""
PROMPTS = {
    3.0: {"lr": 3.0, "lr.vpt": 3.0},
    1.0: {"lr": 3.0, "lr.vpt": 10.0},
    10.0: {"lr": 1.0, "lr.vpt": 10.0},
    0.3: {"lr": 1.0, "lr.vpt": 3.0},
}
"""Prompts need far higher rates than the head that reads them: what they have in place of each factor."""
BUDGET = 20_000
PASSES = 8000
"""Image passes of a run: 20 epochs of 400 images; never fewer than 3 epochs."""
SIZES = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64]

METHODS = ("lora", "ssf", "convpass", "adaptformer", "bitfit", "adapter", "vpt", "adapter_plus")
MIXED: tuple[dict[str, float], ...] = (
    {"convpass": 0.5, "lora": 0.5},
    {"convpass": 0.55, "bitfit": 0.45},
    {"lora": 0.5, "adaptformer": 0.5},
    {"lora": 0.5, "adapter": 0.5},
)
CHANGED = ({"hflip": 0.5, "shift": 0.08}, {"shift": 0.08}, {"hflip": 0.5})
"""How images are changed at random: mirrored and moved, or one of both."""


def recipes(factors: Iterable[float], augmented: Iterable[str]) -> Iterator[Recipe]:
    """All recipes, so that a table that is cut off has all methods at the rate that is best for most.

    Args:
        factors: Of the run's own rate.
        augmented: Methods whose images are changed, too, at the first factor of all.
    """
    shares: list[dict[str, float]] = [{}, *({method: 1.0} for method in METHODS), *MIXED]
    plain = [
        Recipe(tuple(share.items()), tuple((PROMPTS[factor] if "vpt" in share else {"lr": factor}).items()))
        for factor in factors
        for share in shares
    ]
    changed = (
        Recipe(((method, 1.0),), (("lr", FACTORS[0]), *drawn.items())) for method in augmented for drawn in CHANGED
    )
    yield from plain[: len(shares)]
    yield from changed
    yield from plain[len(shares) :]


def space_of(recipe: Recipe, shape: BackboneShape | None = None) -> Space:
    """The widest space of a recipe's methods on a backbone, by default the mini one."""
    shape = shape or shape_by_name(MINI, None)
    methods: dict[str, Any] = {}
    for name in recipe.methods or {"lora"}:
        method = get_method(name)
        whole = any(p.block is None for p in method.baseline(shape, method.default_size))
        sizes = {} if method.default_size is None else {"sizes": SIZES}
        methods[name] = {"blocks": "backbone" if whole else "all"} | sizes
    settings = {name: {"low": 1e-5, "high": 100.0, "log": True} for name, _ in recipe.settings}
    return Space.from_dict({"methods": methods, "settings": settings}, shape.depth)


def bench_of(task: str, args: argparse.Namespace) -> Workbench:
    """The workbench of a task: a known one's, or one that is drawn first."""
    place = {"name": str(write(task, args.tasks_dir))} if task in DRAWN else {"name": task, "root": args.root}
    data = {
        "name": f"record-{task}",
        "task": {"name": "digits"} if task == "digits" else place,
        "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.size},
        "space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}},
        "budget": {"params": args.budget},
        "train": {"epochs": 10, "batch_size": args.batch_size, "lr": args.lr, "warmup_epochs": 1},
        "runs": str(args.out.parent),
    }
    return Workbench(RunConfig.model_validate(data))


def record(bench: Workbench, recipe: Recipe, seed: int, images: int) -> dict[str, Any]:
    """One run of a recipe, of so many image passes."""
    epochs = max(3, round(images / len(bench.task.views["trainval"])))
    candidate = recipe.candidate(space_of(recipe, bench.shape), bench.budget, {"lr": bench.config.train.lr})
    start = time.process_time()
    run = TrainingRun(bench, candidate, Fidelity(epochs, seed), "trainval", None)
    while not run.finished:
        run.epoch()
    found = {"test": round(run.test(), 4), "loss": round(run.progress.loss, 4), "params": bench.cost(candidate.design)}
    return found | {"epochs": epochs, "seconds": round(time.process_time() - start, 2)}


def _part(text: str) -> tuple[int, int]:
    """The first run's place and the step to the next, of `I/N`."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"a part is 1/N to N/N, got {text}")
    return number - 1, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder that has vtab-1k")
    parser.add_argument("--tasks-dir", type=Path, default=Path("runs/drawn"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.jsonl"))
    parser.add_argument("--backbone", default=MINI)
    parser.add_argument("--checkpoint", help="its weights, where they are a file")
    parser.add_argument("--size", type=int, help="of images; by default the backbone's own")
    parser.add_argument("--budget", type=int, default=BUDGET, help="parameters at most")
    parser.add_argument("--lr", type=float, default=LR, help="the run's own rate, of which recipes have a factor")
    parser.add_argument("--factors", type=float, nargs="*", default=FACTORS, choices=[*PROMPTS])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--augmented", nargs="*", default=(), choices=METHODS, help="whose images are changed, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=(*DRAWN, "digits", *SHARED))
    parser.add_argument("--part", type=_part, default=(0, 1), metavar="I/N", help="the runs of one of N processes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(row["task"], json.dumps(row["recipe"]), row["seed"]) for row in map(json.loads, lines)}
    benches: dict[str, Workbench] = {}
    first, step = args.part
    runs = itertools.product(recipes(args.factors, args.augmented), args.tasks)
    for recipe, task in itertools.islice(runs, first, None, step):
        if (task, json.dumps(recipe.to_dict()), args.seed) in done:
            continue
        if task not in benches:
            benches[task] = bench_of(task, args)
        bench = benches[task]
        row = {"backbone": bench.shape.name, "device": bench.device.type, "task": task, "recipe": recipe.to_dict()}
        row |= {"seed": args.seed} | record(bench, recipe, args.seed, args.passes)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
