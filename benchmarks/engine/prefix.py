"""What a training step costs when the activations below the lowest placement are kept: beside (12 - k) / 12.

    python benchmarks/engine/prefix.py [--backbone NAME] [--size PIXELS] [--batch N] [--rounds N] [--out FILE]

ViT-S/14 at 98 pixels with random weights. Row k is LoRA at blocks k..11, and its epochs of three steps are run in turns
with those of the other rows, once from kept activations and once from the images; times are of the processor (of the
clock on a GPU), medians, beside the step of LoRA at all blocks. `data` is the share of a step from the images that
picking and normalising them takes. The loss of both ways must be the same to the digit in float32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from petlas.petl import Design, Placement, apply, input_config, load_backbone, reset_head
from petlas.search.config import TrainConfig
from petlas.search.objectives.single_label import SingleLabel
from petlas.search.training import ImageBatches, Inputs, Learner
from petlas.search.training.prefix import KnownBatches, PrefixCache

CLASSES, STEPS = 10, 3
DESIGNS = {
    **{f"lora {k}..11": [Placement("lora", block, 8) for block in range(k, 12)] for k in (0, 3, 6, 9, 11)},
    "linear": [],
    "last": [Placement("last", None, 16)],
    "vqt": [Placement("vqt", block, 1) for block in range(12)],
}


class Steps(Learner):
    """Epochs of steps as every trial makes them."""

    def accumulate(self, images: Inputs, targets: Tensor) -> Tensor:
        """The gradients of the loss."""
        loss = self.objective.loss(self.forward(images), targets)
        loss.backward()
        return loss.detach()

    def seconds(self) -> float:
        """Of a step of the next epoch."""
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        start = clock()
        self.train_epoch()
        return (clock() - start) / STEPS


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--size", type=int, default=98)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--amp", default="off")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = TrainConfig(epochs=10_000, batch_size=args.batch, warmup_epochs=0, amp=args.amp)
    rng, count = np.random.default_rng(0), STEPS * args.batch
    pixels, labels = (
        rng.integers(256, size=(count, 3, args.size, args.size), dtype=np.uint8),
        rng.integers(10, size=count),
    )
    torch.manual_seed(0)
    pristine = load_backbone(args.backbone, pretrained=False, img_size=args.size)
    data = ImageBatches(pixels, labels, input_config(pristine), device, args.batch)
    runs: dict[tuple[str, bool], Steps] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PETLAS_CACHE"] = folder
        for name, placements in DESIGNS.items():
            for kept in (False, True):
                torch.manual_seed(0)
                model = load_backbone(args.backbone, pretrained=False, img_size=args.size)
                model.load_state_dict(pristine.state_dict())
                reset_head(model, CLASSES)
                apply(model, Design.of(placements)).to(device)
                shell = Steps(model, data, SingleLabel(), train, 0)
                known = PrefixCache(data, 2**34, {}, shell.autocast).open(model) if kept else None
                shell.data = KnownBatches(data, known) if known else data
                runs[name, kept] = shell
        times: dict[tuple[str, bool], list[float]] = {key: [] for key in runs}
        picking = []
        for number in range(args.rounds + 1):
            for key, run in runs.items():
                seconds = run.seconds()
                if number:  # the first warms up, and checks the digits
                    times[key].append(seconds)
            start = time.process_time()
            for pick in torch.randperm(count).split(args.batch):
                data.batch(pick)
            picking.append((time.process_time() - start) / STEPS)
    medians = {key: statistics.median(values) for key, values in times.items()}
    whole = medians["lora 0..11", False]
    lines = [
        f"{args.backbone}, {args.size} px, batch {args.batch}, {device.type}, amp {args.amp}: a step of LoRA at all "
        f"blocks takes {whole * 1000:.0f} ms, of which data {statistics.median(picking) / whole:.1%}.",
        "",
        "| design | from the images | from kept activations | (12 - k) / 12 | off by | same digits |",
        "|---|---|---|---|---|---|",
    ]
    for name in DESIGNS:
        first, second = medians[name, False] / whole, medians[name, True] / whole
        share = (12 - int(name[5:].partition(".")[0])) / 12 if name.startswith("lora") else None
        same = runs[name, False].progress == runs[name, True].progress
        beside = f"{share:.2f} | {second / share - 1:+.0%}" if share else " | "
        lines.append(f"| {name} | {first:.2f} | {second:.2f} | {beside} | {'yes' if same else 'no'} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
