"""Bottlenecks behind single linear layers (SPT-Adapter)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import Handle
from petlas.petl.methods.bottleneck import Bottleneck, count_bottleneck
from petlas.petl.methods.low_rank import TargetsMethod
from petlas.petl.methods.narrow import widen
from petlas.petl.shape import LINEARS, BackboneShape


class OutputBottleneck(Bottleneck):
    """A `Bottleneck` whose dropout acts on its input: y (B, N, O) to Up(act(Down dropout(y))) (B, N, O)."""

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck's output."""
        hidden = self.hidden(F.dropout(x, self.dropout, self.training))
        return widen(hidden, self.part("up"), self.up_bias)


class LinearAdapter(TargetsMethod):
    """A bottleneck behind each of a block's linear layers: y <- y + Up(GELU(Down y)), for the layer's output y.

    `targets` names the layers among q, k, v, proj, fc1 and fc2, by default all; q, k and v are thirds of the output of
    timm's fused layer, each with a bottleneck of its own. Down is (r, outputs) and Up (outputs, r), both with biases.
    `size` is the width r. Count: 2 r outputs + r + outputs for each target: 18 D r + 6 r + 9 D per block for all six
    (1,410,624 for ViT-B/16 at r = 8). Zero-start (Up and its bias are 0), not mergeable. `dropout` acts on y in front
    of Down. In SPT's public code the zeros of Up are overwritten by timm's initialisation; here they stand, as the
    paper has them, and drop-path is left to the backbone. Source: the structured modules of SPT-Adapter, He et al.,
    Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, 2023; the matrices with no module of their own have
    `sparse`.
    """

    name = "linear_adapter"
    summary = "bottlenecks behind single linear layers"
    paper = "SPT-Adapter (He et al., 2023)"
    size_means = "width"
    default_size = 8
    zero_start = True
    mergeable = False
    options = {"dropout": 0.0, "targets": "q,k,v,proj,fc1,fc2"}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """A bottleneck for each target."""
        assert placement.size is not None
        sides = self.sides(shape, placement).values()
        return sum(count_bottleneck(outputs, placement.size) for _, outputs in sides)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """An `OutputBottleneck` for each target, under its name."""
        assert placement.size is not None
        dropout = float(self.option(placement, "dropout") or 0.0)
        sides = self.sides(shape, placement).items()
        return nn.ModuleDict(
            {name: OutputBottleneck(outputs, placement.size, F.gelu, dropout) for name, (_, outputs) in sides}
        )

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """On the output of each layer."""
        for path, names in LINEARS.items():
            adapters = [module._modules.get(name) for name in names]
            if any(adapter is not None for adapter in adapters):
                yield block.get_submodule(path).register_forward_hook(partial(_adapt, adapters))


def _adapt(adapters: Sequence[nn.Module | None], layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    shares = zip(adapters, output.chunk(len(adapters), dim=-1), strict=True)
    return torch.cat([y if adapter is None else y + adapter(y) for adapter, y in shares], dim=-1)
