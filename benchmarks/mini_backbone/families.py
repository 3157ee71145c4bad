"""`auto` at 2 R against single methods, on emoji_group with the mini backbones of other families.

    python benchmarks/mini_backbone/families.py --root DATA --out runs/families > benchmarks/mini_backbone/families.md

Every way learns with one seed from the same 1,000 images in the end and is tested once: the single methods at their
default sizes and the run's rate, untuned; what `auto` chose by 800 of them and 200 of val. The best single method is
picked by test, which no user can: it is what a search is measured by, and has an advantage. A share of 906 images has a
standard error of 1.6 points.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from petlas.petl import everywhere
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.stages.training_run import TrainingRun
from petlas.search.study import StudyRecord, candidate_of
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

SINGLE = ("linear", "bitfit", "ln_tune", "lora", "adapter", "ssf", "convpass", "conv_adapter")
SPACE = {
    "lora": {"blocks": "all", "sizes": [0, 2, 4, 8, 16], "options": {"targets": "fc1,fc2"}},
    "adapter": {"blocks": "all", "sizes": [0, 4, 8, 16]},
    "convpass": {"blocks": "all", "sizes": [0, 4, 8, 16]},
    "ssf": {"blocks": "backbone"},
    "bitfit": {"blocks": "backbone"},
}


def config_of(backbone: str, args: argparse.Namespace) -> RunConfig:
    """The configuration of all runs on a backbone."""
    train = {"epochs": args.epochs, "batch_size": 32, "lr": args.lr, "warmup_epochs": max(1, args.epochs // 10)}
    data: dict[str, Any] = {
        "name": f"emoji-{backbone}",
        "task": {"name": "emoji_group", "root": args.root},
        "backbone": backbone,
        "space": {"methods": SPACE},
        "budget": {"params": args.budget},
        "strategy": "auto",
        "search": {"cost": 2.0},
        "train": train,
        "resources": {"runner": "inline", "gpus": 0.0},
        "runs": str(args.out),
    }
    return RunConfig.model_validate(data)


def tested(bench: Workbench, candidate: Candidate) -> float:
    """Test accuracy of a candidate, trained on train and val."""
    run = TrainingRun(bench, candidate, Fidelity(bench.config.train.epochs, bench.config.seed), "trainval", None)
    while not run.finished:
        run.epoch()
    value: float = run.test()
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="the folder that has vtab-1k")
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--backbones", nargs="*", default=["swin_mini_patch4_64", "convnext_mini_64"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--budget", type=int, default=50_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| backbone | way | parameters | R | test % | what |\n|---|---|---|---|---|---|", flush=True)
    for backbone in args.backbones:
        config = config_of(backbone, args)
        bench = Workbench(config)
        for name in SINGLE:
            design = everywhere(name, bench.shape)
            value = tested(bench, Candidate(design))
            print(f"| {backbone} | {name} | {bench.cost(design):,} | 1 | {100 * value:.1f} | |", flush=True)
        best = search(config)
        assert best is not None, "no training came to its end"
        record = StudyRecord.read(config.folder)
        chosen, spent = candidate_of(best), sum(map(record.cost, record.counted()))
        value, params = tested(bench, chosen), bench.cost(chosen.design)
        print(f"| {backbone} | auto | {params:,} | {spent:.2f} | {100 * value:.1f} | {chosen} |", flush=True)


if __name__ == "__main__":
    main()
