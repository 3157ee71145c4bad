"""Hydra."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.methods.bottleneck import LinearBottleneck, count_linear_bottleneck
from petlas.petl.shape import BackboneShape

SITES = {"attn": "attn.proj", "mlp": "mlp.fc2"}
"""The layers that get both adapters."""


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


class Hydra(BlockMethod):
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
    size_means = "rank"
    default_size = 2
    zero_start = True
    mergeable = True
    options = {"scale": 1.0, "dropout": 0.0}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """Two linear bottlenecks for each site."""
        assert placement.size is not None
        total = 0
        for path in SITES.values():
            layer = shape.layer(f"{placement.path}.{path}")
            for inputs in (layer.inputs, layer.outputs):
                total += count_linear_bottleneck(inputs, layer.outputs, placement.size)
        return total

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One `MultiHead` for each site."""
        assert placement.size is not None
        scale, dropout = (float(self.option(placement, name) or 0.0) for name in ("scale", "dropout"))
        heads = nn.ModuleDict()
        for site, path in SITES.items():
            layer = shape.layer(f"{placement.path}.{path}")
            heads[site] = MultiHead(layer.inputs, layer.outputs, placement.size, scale, dropout)
        return heads

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """On the output of both layers."""
        for site, path in SITES.items():
            hook = partial(_adapt_output, module.get_submodule(site))
            yield block.get_submodule(path).register_forward_hook(hook)

    @torch.no_grad()
    def merge_block(self, block: nn.Module, module: nn.Module) -> None:
        """Into the weight and bias of both layers; a layer without a bias gets one."""
        for site, path in SITES.items():
            layer, heads = block.get_submodule(path), module.get_submodule(site)
            assert isinstance(layer, nn.Linear) and isinstance(heads, MultiHead)
            weight, bias = heads.parallel.folded()
            behind, shift = heads.sequential.folded()
            shift = shift + bias
            if layer.bias is None:
                layer.bias = nn.Parameter(heads.scale * shift, requires_grad=False)
            else:
                layer.bias.add_(heads.scale * (shift + behind @ layer.bias))
            layer.weight.add_(heads.scale * (weight + behind @ layer.weight))


def _adapt_output(heads: nn.Module, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    adapted: Tensor = heads(args[0], output)
    return adapted
