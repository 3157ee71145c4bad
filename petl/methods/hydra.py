"""Hydra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import LinearBottleneck, count_linear_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BlockShape, Layer

LAYERS = {"attn": "proj", "mlp": "fc2"}
"""The linear layers that get both adapters."""


class MultiHead(nn.Module):
    """A layer's input z (B, N, I) and output y (B, N, O) to y + s P(z) + s Q(y): P stands beside it, Q behind it."""

    def __init__(self, inputs: int, outputs: int, width: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.parallel = LinearBottleneck(inputs, outputs, width, dropout)
        self.sequential = LinearBottleneck(outputs, outputs, width, dropout)
        self.scale = scale

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The layer's adapted output."""
        adapted: Tensor = y + self.scale * (self.parallel(z) + self.sequential(y))
        return adapted


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    scale: float = 1.0
    dropout: float = 0.0


class Hydra(BlockMethod[Options]):
    """A linear adapter beside and one behind both `attn.proj` and `mlp.fc2`: y = W z + b + s P(z) + s Q(W z + b).

    P and Q are each Up(dropout(Down)) with biases and nothing between. `size` is the rank r. Count, with the MLP's 4 D
    hidden units: 5 D r + r + D for fc2's P and 3 (2 D r + r + D) for the others, per block (239,712 for ViT-B/16 at
    r = 2). Down starts Xavier and Up zero: zero-start. Mergeable: W <- W + s (P_W + Q_W W) and
    b <- b + s (P_b + Q_W b + Q_b), where X_W = Up Down and X_b = Up b_down + b_up. The paper picks the scale s
    (0.1 to 4.5) and dropout (0 to 0.2, on the hidden units) of each task; the defaults are 1 and 0. Source: Kim et
    al., Hydra: Multi-head Low-rank Adaptation, 2023.
    """

    name = "hydra"
    summary = "linear adapters beside and behind attn.proj and mlp.fc2"
    paper = "Hydra (Kim et al., 2023)"
    sites = ("attn.proj", "mlp.fc2")
    any_site = True
    size_means = "rank"
    default_size = 2
    zero_start = True
    mergeable = True
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """Two linear bottlenecks for each layer."""
        total = 0
        for layer in _layers(block).values():
            for inputs in (layer.inputs, layer.outputs):
                total += count_linear_bottleneck(inputs, layer.outputs, placement.size)
        return total

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One `MultiHead` for each layer."""
        options, heads = placement.options, nn.ModuleDict()
        for branch, layer in _layers(block).items():
            heads[branch] = MultiHead(layer.inputs, layer.outputs, placement.size, options.scale, options.dropout)
        return heads

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the output of both layers."""
        for branch, layer in _layers(block.shape).items():
            yield block.behind(layer).around(module.get_submodule(branch))

    @torch.no_grad()
    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """Into the weight and bias of both layers; a layer without a bias gets one."""
        for branch, layer in _layers(block.shape).items():
            heads = module.get_submodule(branch)
            assert isinstance(heads, MultiHead)
            own, before = block.matrix(layer), block.family.bias(block.model, layer)
            weight, bias = heads.parallel.folded()
            behind, shift = heads.sequential.folded()
            shift = shift + bias
            block.add_to_bias(layer, heads.scale * (shift if before is None else shift + behind @ before))
            own.add_(heads.scale * (weight + behind @ own))


def _layers(block: BlockShape) -> dict[str, Layer]:
    """The layers that a block has, by their branch."""
    return {branch: block.linear(LAYERS[branch]) for branch in block.branches}
