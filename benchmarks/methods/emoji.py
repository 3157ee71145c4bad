"""Every method once on emoji_group, with equal settings: test accuracy, parameters, seconds.

    python benchmarks/methods/emoji.py --root DATA --checkpoint dinov2_vits14_fp16.safetensors --out runs/methods \\
        > benchmarks/methods/emoji.md

Each method's usual design at its default size, trained on the 800 training images with one seed and tested once. What
is done is kept in --out: the command goes on where it was cut off. One seed on about 900 test images has a standard
error of 1.5 points, and no method has its own learning rate here: this shows that methods work, not which one is best.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from petlas.files import write_json
from petlas.petl import METHODS, Design, get_method
from petlas.search.config import RunConfig
from petlas.search.reports.listing import list_methods
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate


def train(bench: Workbench, design: Design) -> dict[str, Any]:
    """Test accuracy of a design, and the seconds of its training; where that was taken up, as long for each epoch."""
    epochs = bench.config.train.epochs
    fidelity = Fidelity(epochs, bench.config.seed)
    run = TrainingRun(bench, Candidate(design), fidelity, val_view=None, files=bench.files)
    start, left = time.perf_counter(), epochs - run.progress.epochs
    while not run.finished:
        run.epoch()
    seconds = (time.perf_counter() - start) * epochs / left if left else math.nan
    return {"loss": run.progress.loss, "seconds": seconds, "test": run.test()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="where the VTAB-layout tasks lie")
    parser.add_argument("--task", default="emoji_group")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint")
    parser.add_argument("--img-size", type=int, default=70)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--methods", nargs="*", default=[name for name in METHODS if name != "full"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate(
        {
            "name": "methods",
            "task": {"name": args.task, "root": args.root},
            "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.img_size},
            "space": "noah",
            "train": {"epochs": args.epochs, "batch_size": 32, "lr": args.lr, "warmup_epochs": 1},
            "runs": str(args.out),
        }
    )
    bench, file = Workbench(config), args.out / f"{args.task}.json"
    done: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    print("| method | size | parameters | test % | training loss | seconds |")
    print("|---|---|---|---|---|---|")
    refused = {row["method"] for row in list_methods(bench.shape.name) if row["refused"]}
    for name in (name for name in args.methods if name not in refused):
        method = get_method(name)
        design = Design.of(method.baseline(bench.shape, method.default_size), bench.shape.name)
        if name not in done:
            done[name] = train(bench, design) | {"params": bench.cost(design)}
            write_json(file, done)
        row, size = done[name], "-" if method.default_size is None else method.default_size
        figures = f"{row['params']:,} | {100 * row['test']:.1f} | {row['loss']:.3f} | {row['seconds']:.0f}"
        print(f"| {name} | {size} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
