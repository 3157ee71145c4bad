"""What a sensitivity costs: ViT-B/16 at 224 px, random weights, 2 batches of 8 images, 100 classes, seven budgets.

    python benchmarks/sensitivity/speed.py > benchmarks/sensitivity/speed.md

The gradients are compared with a plain forward and backward pass over all weights of the same batches, interleaved in
one process. The peak memory is that of another process, which measures once and gives out the budgets.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl import block_tensors, count_params
from petlas.search.config import SensitivityConfig
from petlas.search.sensitivity import BUDGETS
from petlas.search.sensitivity.allocation import allocate_all
from petlas.search.sensitivity.measuring import tensor_sensitivities

Batches = list[tuple[Tensor, Tensor]]


def case() -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    # Not `load_backbone`, whose heads draw otherwise: the weights are those of the committed table.
    model = timm.create_model("vit_base_patch16_224", num_classes=100).eval()
    return model, [(torch.randn(8, 3, 224, 224), torch.randint(100, (8,))) for _ in range(2)]


def plain(model: nn.Module, batches: Batches) -> None:
    model.requires_grad_(True)
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
    model.zero_grad()


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def once() -> None:
    """Measure and allocate once, and print the peak memory in GiB."""
    model, batches = case()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shape, found = tensor_sensitivities(model, batches, "spt", F.cross_entropy)
    allocate_all(found, shape, BUDGETS, SensitivityConfig())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{before / 2**20:.2f} {peak / 2**20:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.once:
        once()
        return
    # First, since a process is born with the peak of its parent.
    command = [sys.executable, __file__, "--once", "--threads", str(args.threads)]
    idle, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    model, batches = case()
    plain(model, batches)
    bare, own = [], []
    for _ in range(args.rounds):
        bare.append(seconds(lambda: plain(model, batches)))
        own.append(seconds(lambda: tensor_sensitivities(model, batches, "spt", F.cross_entropy)))
    shape, found = tensor_sensitivities(model, batches, "spt", F.cross_entropy)
    start = time.perf_counter()
    designs = allocate_all(found, shape, BUDGETS, SensitivityConfig())
    after = time.perf_counter() - start
    assert len(found) == sum(len(block_tensors(shape, block)) for block in range(shape.depth))
    ratio = median(a / b for a, b in zip(own, bare, strict=True))
    print("| what | figure |\n|---|---|")
    print(f"| plain forward and backward pass over all weights, s | {median(bare):.1f} |")
    print(f"| sensitivity of all entries, s | {median(own):.1f} |")
    print(f"| ratio, median of {args.rounds} interleaved pairs | {ratio:.2f} |")
    print(f"| from the gradients to the designs of all {len(BUDGETS)} budgets, s | {after:.1f} |")
    print(f"| peak memory, GiB ({idle} of it before the first batch) | {peak} |\n")
    print("| budget | parameters | modules | single entries and vectors |\n|---|---|---|---|")
    for budget, design in zip(BUDGETS, designs, strict=True):
        modules = sum(str(dict(p.options)["targets"]).count(",") + 1 for p in design.by_method.get("lora", ()))
        entries = sum(p.size or 0 for p in design.by_method.get("sparse", ()))
        print(f"| {budget:,} | {count_params(design, shape):,} | {modules} | {entries:,} |")


if __name__ == "__main__":
    main()
