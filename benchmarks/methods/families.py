"""What the families' usual models cost: applying a design, counting, a training step, taking it off again.

    python benchmarks/methods/families.py > benchmarks/methods/families.md

Random weights, default sizes, 10 classes, a batch of 4 at the model's own image size, float32; each row in a process of
its own, so that its peak of memory (resident, the model's weights and torch included) is its own. A row is written only
where the formula gives what is trained, and the model is the same bit for bit when the design is off again.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from petlas.petl import apply, count_params, count_tuned, everywhere, load_backbone, remove, shape_of

MODELS = (
    "vit_base_patch16_clip_quickgelu_224.openai",
    "eva02_base_patch14_224",
    "swin_base_patch4_window7_224",
    "convnext_base",
    "resnet50",
)
METHODS = ("lora", "dora", "adapter", "mona", "ssf")


def row(name: str, method: str, batch: int) -> str:
    """One design on one model."""
    torch.manual_seed(0)
    started = time.perf_counter()
    model = load_backbone(name, pretrained=False, num_classes=10)
    made = time.perf_counter()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    size = model.pretrained_cfg["input_size"]
    images, labels = torch.randn(batch, *size), torch.zeros(batch, dtype=torch.long)
    design = everywhere(method, model)
    params = count_params(design, shape_of(model))
    begun = time.perf_counter()
    apply(model, design).train()
    applied = time.perf_counter()
    assert params == count_tuned(model), (params, count_tuned(model))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    F.cross_entropy(model(images), labels).backward()
    optimiser.step()
    stepped = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    remove(model)
    removed = time.perf_counter()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    spent = (made - started, applied - begun, stepped - applied, removed - stepped)
    times = " | ".join(f"{seconds:.2f}" for seconds in spent)
    return f"| {name} | {method} | {params:,} | {times} | {peak:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--row", nargs=2, metavar=("MODEL", "METHOD"), help="print this row alone")
    args = parser.parse_args()
    if args.row:
        print(row(*args.row, args.batch))
        return
    torch_threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    print(f"A batch of {args.batch}, {torch_threads}. Seconds and GiB.\n")
    print("| model | method | parameters | create | apply | first step | remove | peak memory |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.models:
        for method in args.methods:
            command = [sys.executable, __file__, "--batch", str(args.batch), "--row", name, method]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(done.stdout.strip() or f"| {name} | {method} | {done.stderr.strip().splitlines()[-1]} |", flush=True)


if __name__ == "__main__":
    main()
