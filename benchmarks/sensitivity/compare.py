"""Do sizes by sensitivity beat equal sizes? The same method and parameters, three seeds, on three tasks.

    python benchmarks/sensitivity/compare.py --root DATA --checkpoint dinov2_vits14_fp16.safetensors \\
        --out runs/compare > benchmarks/sensitivity/compare.md

For each task: LoRA of equal rank on q and v in all blocks; LoRA with ranks in proportion to the sensitivity, of as many
parameters; SPT's rule at that budget; and equal and proportional adapters. Each is trained on the 1,000 images and
tested, for each seed. What is done is kept in --out: the command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from petlas.files import write_json
from petlas.petl import Design, Placement
from petlas.search.config import RunConfig
from petlas.search.sensitivity import make_report
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

SIZES = list(range(65))

RULES = {"lora": ("proportional", "spt"), "adapter": ("proportional",)}
"""Beside equal sizes; SPT's rule inserts modules and single entries."""


def bench_of(args: argparse.Namespace, task: str, method: str, rule: str, budget: int | None = None) -> Workbench:
    config = RunConfig.model_validate(
        {
            "name": f"{task}-{method}-{rule}",
            "task": {"name": task, "root": args.root},
            "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.img_size},
            "space": {"methods": {method: {"blocks": "all", "sizes": SIZES}}},
            "budget": {"params": budget},
            "sensitivity": {"rule": rule, "rank": args.rank},
            "train": {"epochs": args.epochs, "batch_size": 32, "lr": args.lr, "warmup_epochs": 1},
            "runs": str(args.out),
        }
    )
    return Workbench(config)


def cases(
    args: argparse.Namespace, task: str, keep: Callable[..., Any]
) -> Iterator[tuple[str, Workbench, Design, Any]]:
    """Each design with its name, the run that it belongs to, and the seconds that its sensitivity took."""
    for method in args.methods:
        bench = bench_of(args, task, method, "spt")
        shape = bench.shape
        equal = Design.of([Placement(method, block, args.size) for block in range(shape.depth)], shape.name)
        yield f"{method}, equal sizes", bench, equal, None
        for rule in RULES[method]:
            bench = bench_of(args, task, method, rule, bench.cost(equal))

            def measured(bench: Workbench = bench) -> dict[str, Any]:
                made = make_report(bench)
                return {"design": made.designs[0].design, "seconds": made.seconds}

            found = keep(f"{task} {method} {rule}", measured)
            seconds = sum(found["seconds"].values())
            yield f"{method}, {rule}", bench, Design.from_dict(found["design"]), seconds


def train(bench: Workbench, design: Design, seed: int) -> float:
    """Test accuracy of a design trained on train+val."""
    fidelity = Fidelity(bench.config.train.epochs, seed)
    run = TrainingRun(bench, Candidate(design), fidelity, "trainval", None, files=bench.files)
    while not run.finished:
        run.epoch()
    return run.test()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="where the VTAB-layout tasks lie")
    parser.add_argument("--tasks", nargs="*", default=["emoji_group", "mnist", "dsprites_loc"])
    parser.add_argument("--methods", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint")
    parser.add_argument("--img-size", type=int, default=70)
    parser.add_argument("--size", type=int, default=4, help="the equal rank or width")
    parser.add_argument("--rank", type=int, default=4, help="of SPT's modules")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "figures.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def keep(key: str, make: Callable[[], Any]) -> Any:
        if key not in done:
            done[key] = make()
            write_json(file, done)
        return done[key]

    print("| task | design | parameters | test %, mean and deviation | seconds of scoring |\n|---|---|---|---|---|")
    for task in args.tasks:
        for name, bench, design, seconds in cases(args, task, keep):
            tests = [
                100 * keep(f"{task} {design.key} {seed}", lambda b=bench, d=design, s=seed: train(b, d, s))
                for seed in range(args.seeds)
            ]
            shown = f"{mean(tests):.1f} ± {stdev(tests):.1f}" if len(tests) > 1 else f"{tests[0]:.1f}"
            took = "" if seconds is None else f"{seconds:.0f}"
            print(f"| {task} | {name} | {bench.cost(design):,} | {shown} | {took} |", flush=True)


if __name__ == "__main__":
    main()
