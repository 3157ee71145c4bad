"""Linear probes on the mini backbone: test errors with pretrained and with random weights, 1,000 training images.

    python benchmarks/mini_backbone/probe.py --root DATA > benchmarks/mini_backbone/probe.md

The probe is a logistic regression on the standardised class token after the last norm; its regularisation is chosen
on train -> val, separately for each backbone, then it is fitted on train+val and tested once. With `--val` it is fitted
on train and measured on val, with the best regularisation: for choosing between weights without looking at test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from petlas.datasets import Task, open_store, open_task
from petlas.petl import input_config, load_backbone
from petlas.petl.backbone import MINI
from petlas.search.training import ImageBatches

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


@torch.inference_mode()
def features(model: torch.nn.Module, task: Task, split: str) -> np.ndarray:
    """Class tokens (N, D) of a split."""
    inputs, part = input_config(model), task.splits[split]
    images = open_store(part, inputs.size, interpolation=inputs.interpolation)
    data = ImageBatches(images, part.labels, inputs, torch.device("cpu"))
    return torch.cat([model(batch) for batch, _ in data]).numpy()


def probe_errors(model: torch.nn.Module, task: Task, val: bool) -> int:
    """Test errors of the probe, or its errors on val."""
    x = {split: features(model, task, split) for split in task.splits}
    y = {split: part.labels for split, part in task.splits.items()}

    def errors(fitted_on: str, measured_on: str, strength: float) -> int:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        return int((probe.fit(x[fitted_on], y[fitted_on]).predict(x[measured_on]) != y[measured_on]).sum())

    best = min(STRENGTHS, key=lambda strength: errors("train", "val", strength))
    return errors("train", "val", best) if val else errors("trainval", "test", best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="where the VTAB-layout tasks lie; without it, digits alone")
    parser.add_argument("--tasks", nargs="*", default=["digits", "emoji_group", "mnist"])
    parser.add_argument("--checkpoint", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--val", action="store_true", help="measure on val instead of test")
    args = parser.parse_args()
    split = "val" if args.val else "test"
    print(f"| task | {split} images | errors, random weights (3 seeds) | errors, pretrained | fewer |")
    print("|---|---|---|---|---|")
    for name in args.tasks:
        task = open_task(name, args.root)
        random = []
        for seed in range(3):
            torch.manual_seed(seed)
            random.append(probe_errors(load_backbone(MINI, pretrained=False), task, args.val))
        pretrained = probe_errors(load_backbone(MINI, args.checkpoint), task, args.val)
        fewer = 1 - pretrained / np.mean(random)
        shown = ", ".join(map(str, random))
        print(f"| {name} | {len(task.splits[split])} | {shown} | {pretrained} | {fewer:.0%} |", flush=True)


if __name__ == "__main__":
    main()
