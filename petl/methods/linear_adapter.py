"""Bottlenecks behind single linear layers (SPT-Adapter)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.bottleneck import Bottleneck, count_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.low_rank import Targets, TargetsMethod
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.products import widen
from petlas.petl.shape import BlockShape


class OutputBottleneck(Bottleneck):
    """A `Bottleneck` whose dropout acts on its input: y (B, N, O) to Up(act(Down dropout(y))) (B, N, O)."""

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck's output."""
        hidden = self.hidden(F.dropout(x, self.dropout, self.training))
        return widen(hidden, self.part("up"), self.up_bias)


@dataclass(frozen=True)
class Options(Targets):
    """What a placement may set.

    Args:
        targets: The layers' names, with commas between.
        dropout: Acts on the layer's output in front of Down.
    """

    targets: str = "q,k,v,proj,fc1,fc2"
    dropout: float = 0.0


class LinearAdapter(TargetsMethod[Options]):
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
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """A bottleneck for each target."""
        sides = self.sides(block, placement).values()
        return sum(count_bottleneck(outputs, placement.size) for _, outputs in sides)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """An `OutputBottleneck` for each target, under its name."""
        size, dropout = placement.size, placement.options.dropout
        sides = self.sides(block, placement).items()
        return nn.ModuleDict({name: OutputBottleneck(outputs, size, F.gelu, dropout) for name, (_, outputs) in sides})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the output of each layer."""
        children = dict(module.named_children())
        for layer in block.shape.linears:
            adapters = [children.get(name) for name in layer.names]
            if any(adapter is not None for adapter in adapters):
                yield block.behind(layer).change(partial(_adapt, adapters))


def _adapt(adapters: Sequence[nn.Module | None], output: Tensor) -> Tensor:
    shares = zip(adapters, output.chunk(len(adapters), dim=-1), strict=True)
    return torch.cat([y if adapter is None else y + adapter(y) for adapter, y in shares], dim=-1)
