"""What each method costs on ViT-B/16: parameters, and the time of a training step beside linear probing.

    python benchmarks/methods/cost.py > benchmarks/methods/cost.md

Default sizes, 224 px, 10 classes, random weights. Steps of a method and of linear probing alternate in one process, and
the ratio is the median over the rounds: machines differ, ratios less so. PPT (V-PETL Bench, 2024) weighs an accuracy by
exp(-log10(parameters / 10^7 + 1)): the column gives that weight.
"""

from __future__ import annotations

import argparse
import math
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl import METHODS, Design, apply, count_params, family_of, get_method, load_backbone, remove, shape_of
from petlas.search.reports.listing import list_methods


def step(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    F.cross_entropy(model(images), labels).backward()
    seconds = time.perf_counter() - start
    model.zero_grad()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=[name for name in METHODS if name != "full"])
    args = parser.parse_args()
    torch.manual_seed(0)
    linear, model = (load_backbone(args.backbone, pretrained=False, num_classes=10) for _ in range(2))
    shape = shape_of(model)
    apply(linear, Design()).train()
    size = family_of(model).image_size(model)
    images, labels = torch.randn(args.batch, 3, *size), torch.zeros(args.batch, dtype=torch.long)
    print("| method | size | parameters | share of the backbone | PPT weight | mergeable | step / linear probing |")
    print("|---|---|---|---|---|---|---|")
    refused = {row["method"] for row in list_methods(shape.name) if row["refused"]}
    for name in (name for name in args.methods if name not in refused):
        method = get_method(name)
        design = Design.of(method.baseline(shape, method.default_size))
        apply(model, design).train()
        ratios = [step(model, images, labels) / step(linear, images, labels) for _ in range(args.rounds + 1)][1:]
        remove(model)
        params, size = count_params(design, shape), "-" if method.default_size is None else method.default_size
        share, merges = f"{100 * params / shape.params:.3f}%", "yes" if method.mergeable else "no"
        weight = math.exp(-math.log10(params / 1e7 + 1))
        print(
            f"| {name} | {size} | {params:,} | {share} | {weight:.3f} | {merges} | {median(ratios):.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
