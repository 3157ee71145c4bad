"""Linear probes on a mini backbone: test errors with pretrained and with random weights, 1,000 training images.

    python benchmarks/mini_backbone/probe.py --root DATA > benchmarks/mini_backbone/probe.md

The probe is a logistic regression on the standardised class token after the last norm, or pooled features, fitted on
the 1,000 training images and tested once; its regularisation has the fewest errors in 5-fold cross-validation on them,
separately for each backbone. With `--val` those cross-validated errors are printed: for choosing between weights
without looking at test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from petlas.datasets import Task, View, open_store, open_task
from petlas.petl import MINI, input_config, load_backbone
from petlas.petl.mini import MINIS
from petlas.search.training import ImageBatches

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


@torch.inference_mode()
def features(model: torch.nn.Module, view: View) -> np.ndarray:
    """Class tokens or pooled features (N, D) of a view."""
    inputs = input_config(model)
    images = open_store(view.source, inputs.size, interpolation=inputs.interpolation)
    data = ImageBatches(images, view.targets, inputs, torch.device("cpu"), indices=view.indices)
    return torch.cat([model(batch) for batch, _ in data]).numpy()


def probe_errors(model: torch.nn.Module, task: Task, val: bool) -> int:
    """Test errors of the probe, or its cross-validated errors on the training images."""
    learned, test = task.views["trainval"], task.views["test"]
    x, y = features(model, learned), learned.targets
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    search = GridSearchCV(probe, {"logisticregression__C": STRENGTHS}, cv=folds)
    search.fit(x, y)
    if val:
        return round((1 - search.best_score_) * len(y))
    return int((search.predict(features(model, test)) != test.targets).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="where the VTAB-layout tasks lie; without it, digits alone")
    parser.add_argument("--tasks", nargs="*", default=["digits", "emoji_group", "mnist"])
    parser.add_argument("--backbone", default=MINI, choices=MINIS)
    parser.add_argument("--checkpoint", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--val", action="store_true", help="print cross-validated errors instead of test errors")
    args = parser.parse_args()
    view = "trainval" if args.val else "test"
    print(f"| task | {view} images | errors, random weights (3 seeds) | errors, pretrained | fewer |")
    print("|---|---|---|---|---|")
    for name in args.tasks:
        task = open_task(name, args.root)
        random = []
        for seed in range(3):
            torch.manual_seed(seed)
            random.append(probe_errors(load_backbone(args.backbone, pretrained=False), task, args.val))
        pretrained = probe_errors(load_backbone(args.backbone, args.checkpoint), task, args.val)
        fewer = 1 - pretrained / np.mean(random)
        shown = ", ".join(map(str, random))
        print(f"| {name} | {len(task.views[view])} | {shown} | {pretrained} | {fewer:.0%} |", flush=True)


if __name__ == "__main__":
    main()
