"""What supernets, subnets, scores and SPT's designs cost beside the bare backbone: ratios of interleaved runs.

    python benchmarks/supernet/steps.py > benchmarks/supernet/steps.md

ViT-B/16 at 224 px with random weights, NOAH's VTAB space, 100 classes. The bare step is forward and backward with
everything frozen but the head and one vector added to what enters the first block, so that gradients cross all blocks.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from statistics import median, pstdev

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl import (
    Design,
    Placement,
    Supernet,
    apply,
    count_params,
    family_of,
    input_config,
    load_backbone,
    prepare,
    shape_of,
)
from petlas.search.config import SensitivityConfig, find_config
from petlas.search.objectives import get_objective
from petlas.search.sensitivity.allocation import allocate_all
from petlas.search.sensitivity.measuring import tensor_sensitivities
from petlas.search.stages.scoring import Scorer
from petlas.search.training import ImageBatches
from petlas.spaces import Budget, load_space

NOAH_CIFAR100 = {
    "vpt": (10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10),
    "lora": (10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1),
    "adapter": (5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1),
}


class Bare(nn.Module):
    """A frozen backbone with a trained vector in front of its blocks, and a trained head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        family = family_of(model)
        family.head(model).requires_grad_(True)
        self.vector = nn.Parameter(torch.zeros(family.width(model)))
        family.site(model, "block.in", 0).change(lambda tokens: tokens + self.vector)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.model(x)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Forward and backward."""
    F.cross_entropy(model(images), labels).backward()
    model.zero_grad()


def interleaved(rounds: int, **actions: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each action in each round, after one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    order = random.Random(0)
    for number in range(rounds + 1):
        for name, action in order.sample(list(actions.items()), len(actions)):
            start = time.perf_counter()
            action()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], base: str) -> None:
    """Print medians, and medians of the ratios to the base's time in the same round, with their standard errors."""
    for name, times in seconds.items():
        ratios = [time / bare for time, bare in zip(times, seconds[base], strict=True)]
        error = 1.25 * pstdev(ratios) / len(ratios) ** 0.5  # of a median: a quarter more than of a mean
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {title}: {name} | {median(times):.2f} | {median(ratios):.3f} | {error:.3f} | {spread} |", flush=True)


def compare_steps(
    args: argparse.Namespace, model: nn.Module, supernet: Supernet, designs: Callable[[], Design]
) -> None:
    """Training steps against the bare step."""
    size = family_of(model).image_size(model)
    images, labels = torch.randn(args.batch, 3, *size), torch.randint(100, (args.batch,))
    bare = Bare(copy.deepcopy(model)).train()
    supernet.model.train()
    actions = {
        "bare": lambda: step(bare, images, labels),
        "supernet, a new design": lambda: step(supernet.activate(designs()), images, labels),
    }
    if args.spt:
        shape, sensitivities = tensor_sensitivities(model.eval(), [(images, labels)], "spt", F.cross_entropy)
        (design,) = allocate_all(sensitivities, shape, [args.spt], SensitivityConfig())
        del sensitivities
        spt = prepare(apply(copy.deepcopy(model), design), [(images, labels)], F.cross_entropy).train()
        actions[f"SPT's design of {args.spt:,} parameters"] = lambda: step(spt, images, labels)
    if shape_of(model).depth == 12:
        sizes = [(m, b, s) for m, row in NOAH_CIFAR100.items() for b, s in enumerate(row)]
        subnet = apply(copy.deepcopy(model), Design.of(Placement(*each) for each in sizes)).train()
        actions["NOAH's CIFAR-100 subnet"] = lambda: step(subnet, images, labels)
    report(f"training step, batch {args.batch}", interleaved(args.rounds, **actions), "bare")


def compare_scores(
    args: argparse.Namespace, model: nn.Module, supernet: Supernet, designs: Callable[[], Design]
) -> None:
    """The score of a design against the plain forward pass: a few images of noise in each round."""
    inputs, each = input_config(model), max(1, args.images // args.scoring_rounds)
    pixels = torch.randint(256, (each, 3, inputs.size, inputs.size), dtype=torch.uint8).numpy()
    data = ImageBatches(pixels, np.zeros(each, int), inputs, torch.device("cpu"))
    scorer = Scorer(supernet, data, get_objective("single_label"), cache=0)
    plain = model.eval()

    @torch.inference_mode()
    def forward() -> None:
        for batch, _ in data:
            plain(batch)

    actions = {"plain forward pass": forward, "scoring a new design": lambda: scorer.score(designs())}
    what = f"{args.images} images, {each} at a time"
    report(what, interleaved(args.scoring_rounds, **actions), "plain forward pass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=5, help="of training steps")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=200, help="that scores are measured on, over all rounds")
    parser.add_argument("--scoring-rounds", type=int, default=25)
    parser.add_argument("--budget", type=int, default=640_000)
    parser.add_argument("--spt", type=int, default=400_000, help="parameters of SPT's design; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = load_backbone(args.backbone, num_classes=100, pretrained=False)
    shape = shape_of(model)
    space = load_space(find_config("noah", "spaces"), shape.depth)
    budget = Budget(args.budget, lambda design: count_params(design, shape))
    rng = np.random.default_rng(0)

    def draw() -> Design:
        return space.sample(rng, budget).design

    supernet = Supernet(copy.deepcopy(model), space.largest)
    print("| what | median seconds | ratio | its standard error | lowest to highest |")
    print("|---|---|---|---|---|")
    if args.rounds:
        compare_steps(args, model, supernet, draw)
    compare_scores(args, model, supernet, draw)


if __name__ == "__main__":
    main()
