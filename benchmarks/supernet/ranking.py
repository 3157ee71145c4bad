"""How well do supernet scores rank designs? Kendall's tau against stand-alone training, single-path and sandwich.

    python benchmarks/supernet/ranking.py --root DATA --checkpoint dinov2_vits14_fp16.safetensors --out runs/ranking \\
        > benchmarks/supernet/ranking.md

Designs are drawn evenly over parameter counts and trained on their own, once for all supernets. The supernets train for
the same number of forward and backward passes: an epoch of the sandwich rule, with its 4 designs in each step, counts
as 4. Everything that is done is kept in --out: the command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from petlas.files import write_json
from petlas.petl import Design
from petlas.search.config import RunConfig
from petlas.search.selection import rank_agreement, regret
from petlas.search.stages.scoring import shared_scorer
from petlas.search.stages.supernet import SupernetRun
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

SUPERNETS: dict[str, dict[str, Any]] = {
    "single-path": {"sampling": "single"},
    "single-path, even over parameters": {"sampling": "single", "draw": "params"},
    "sandwich": {"sampling": "sandwich"},
}


def benches(args: argparse.Namespace, task: str) -> Iterator[tuple[str, Workbench]]:
    """One workbench for each kind of supernet."""
    for name in args.supernets:
        settings = SUPERNETS[name]
        passes = 4 if settings["sampling"] == "sandwich" else 1
        epochs = max(1, args.supernet_epochs // passes)
        config = RunConfig.model_validate(
            {
                "name": f"{task}-{name.replace(', ', '-').replace(' ', '-')}",
                "task": {"name": task, "root": args.root},
                "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.img_size},
                "space": "noah",
                "strategy": "supernet",
                "supernet": {"epochs": epochs, "warmup_epochs": min(1, epochs - 1), "lr": args.lr} | settings,
                "train": {"epochs": args.epochs, "batch_size": 32, "lr": args.lr, "warmup_epochs": 1},
                "runs": str(args.out),
            }
        )
        yield name, Workbench(config)


def kept(path: Path, key: str) -> Any:
    """A figure that was kept, or None."""
    return json.loads(path.read_text()).get(key) if path.exists() else None


def keep(path: Path, key: str, value: Any) -> Any:
    """Keep a figure."""
    write_json(path, (json.loads(path.read_text()) if path.exists() else {}) | {key: value})
    return value


def designs_of(bench: Workbench, count: int) -> list[Design]:
    """The designs that are compared, spread over parameter counts."""
    rng = np.random.default_rng(0)
    return [bench.space.sample_by_cost(rng, bench.budget) for _ in range(count)]


def train_alone(bench: Workbench, design: Design, file: Path) -> float:
    """Accuracy of a design trained on its own."""
    key, config = f"alone {bench.task.name} {design.key}", bench.config
    if (val := kept(file, key)) is not None:
        return float(val)
    fidelity = Fidelity(config.train.epochs, config.seed)
    run = TrainingRun(bench, Candidate(design), fidelity, files=bench.files)
    while not run.finished:
        val = run.epoch().val
    return float(keep(file, key, val))


def scores_of(bench: Workbench, designs: list[Design], file: Path) -> tuple[list[float], float]:
    """Scores of designs by a supernet, and the seconds that its training took."""
    key, run, start = f"seconds {bench.config.name}", SupernetRun(bench), time.perf_counter()
    while not run.finished:
        run.epoch()
    seconds = kept(file, key) or keep(file, key, time.perf_counter() - start)
    scorer = shared_scorer(bench)
    return [scorer.score(design) for design in designs], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="where the VTAB-layout tasks lie")
    parser.add_argument("--tasks", nargs="*", default=["emoji_group", "mnist", "dsprites_loc"])
    parser.add_argument("--supernets", nargs="*", choices=SUPERNETS, default=list(SUPERNETS))
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint")
    parser.add_argument("--img-size", type=int, default=70)
    parser.add_argument("--designs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=5, help="of stand-alone training")
    parser.add_argument("--supernet-epochs", type=int, default=20, help="of single-path training")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "figures.json"
    print("| task | supernet | tau | 95% interval | regret, top 1 | top 3 | score spread | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for task in args.tasks:
        for name, bench in benches(args, task):
            designs = designs_of(bench, args.designs)
            vals = [train_alone(bench, design, file) for design in designs]
            scores, seconds = scores_of(bench, designs, file)
            keep(file, f"points {bench.config.name}", [scores, vals])
            tau, low, high = rank_agreement(scores, vals)
            lost = " | ".join(f"{100 * regret(scores, vals, top):.1f}" for top in (1, 3))
            spread = f"{100 * min(scores):.1f} to {100 * max(scores):.1f}"
            print(
                f"| {task} | {name} | {tau:.2f} | {low:.2f} to {high:.2f} | {lost} | {spread} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
