"""What compiling a backbone's blocks brings, and which methods share graphs: `train.compile`.

    python benchmarks/engine/compile.py [--backbone NAME] [--backend inductor|aot_eager] [--methods NAME ...]

For each method, at its default size in all blocks of a backbone with random weights: how many graphs are made, and for
a second design of half the size; why blocks run as they are, if they do; the largest difference of a gradient from
that without graphs, beside the largest number in it; with `inductor` the seconds until the first step is done, and the
time of a step beside that of one without graphs, the median of rounds in turn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from measure import interleaved
from torch import Tensor, nn

from petlas.petl import METHODS, MINI, CompiledBlocks, Design, apply, get_method, graphs_kept, load_backbone, shape_of

HEAD = (
    "| method | graphs | with half the size | off | seconds to compile | step | as they are, because |",
    "|---|---|---|---|---|---|---|",
)


class Counted:
    """A backend of `torch.compile` that counts the graphs that it is given.

    Args:
        backend: Its name.
    """

    def __init__(self, backend: str) -> None:
        self._backend, self.graphs = backend, 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        """The graph, compiled."""
        self.graphs += 1
        from torch._dynamo import lookup_backend

        return lookup_backend(self._backend)(graph, inputs)


class Steps:
    """Forward and backward passes of a design, with graphs and without.

    Args:
        model: With the design.
        images: (B, 3, H, W).
        blocks: What compiles.
    """

    def __init__(self, model: nn.Module, images: Tensor, blocks: CompiledBlocks) -> None:
        self.model, self._images, self._compiled = model.train(), images, blocks.of(model)

    def plain(self) -> dict[str, Tensor]:
        """Gradients."""
        self.model.zero_grad()
        torch.manual_seed(0)
        self.model(self._images).square().mean().backward()
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def compiled(self) -> dict[str, Tensor]:
        """The same, by graphs."""
        with self._compiled:
            return self.plain()


def row(method: str, backbone: str, batch: int, backend: str, seconds: float) -> str:
    """A line of the table."""
    torch.compiler.reset()
    counted, told = Counted(backend), list[str]()
    blocks, made, device = CompiledBlocks(told.append, counted), list[int](), torch.device("cpu")
    off = took = ratio = 0.0
    for share in (1, 2):
        model = load_backbone(backbone, pretrained=False, num_classes=10)
        own = get_method(method)
        size = max(2, (own.default_size or 2) // share) if own.size_means else None
        with graphs_kept():
            apply(model, Design.of(own.baseline(shape_of(model), size)))
        for parameter in model.petl.parameters():
            nn.init.normal_(parameter, std=0.05)
        height = model.patch_embed.img_size[0]
        steps = Steps(model, torch.randn(batch, 3, height, height), blocks)
        expected = {name: gradient.clone() for name, gradient in steps.plain().items()}
        start = time.process_time()
        found = steps.compiled()
        took = took or time.process_time() - start
        off = max(
            [off, *(float((found[n] - g).abs().max() / g.abs().max().clamp(min=1e-9)) for n, g in expected.items())]
        )
        made.append(counted.graphs)
        if share == 1 and backend == "inductor" and made[0]:
            times = interleaved({"plain": steps.plain, "compiled": steps.compiled}, "plain", device, seconds, least=3)
            ratio = times["compiled"].ratio
    shown = (f"{took:.0f}", f"{ratio:.2f}") if ratio else ("-", "-")
    return f"| {method} | {made[0]} | {made[1]} | {off:.0e} | {shown[0]} | {shown[1]} | {'; '.join(told)} |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=MINI)
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row's rounds")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = list(HEAD)
    print("\n".join(lines))
    for method in args.methods:
        try:
            lines.append(row(method, args.backbone, args.batch, args.backend, args.seconds))
        except Exception as error:  # a method that the backbone does not take
            lines.append(f"| {method} | - | - | - | - | - | {' '.join(str(error).split())[:120]} |")
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
