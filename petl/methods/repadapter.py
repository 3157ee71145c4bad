"""RepAdapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.design import DesignError
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import LinearBottleneck, count_linear_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BackboneShape, BlockShape

BEHIND = {"attn": ("q", "k", "v"), "mlp": ("fc1", "gate")}
"""What reads the input of each branch: an adapter can be merged into these."""


class LinearAdapter(nn.Module):
    """a (B, N, D) to a + s Up(dropout(Down a)) (B, N, D), linear."""

    def __init__(self, channels: int, width: int, scale: float, dropout: float, groups: int) -> None:
        super().__init__()
        self.bottleneck = LinearBottleneck(channels, channels, width, dropout, groups)
        self.scale = scale

    def forward(self, a: Tensor) -> Tensor:
        """The adapted input of the layer behind."""
        adapted: Tensor = a + self.scale * self.bottleneck(a)
        return adapted


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    scale: float = 1.0
    dropout: float = 0.1
    groups: int = 2


class RepAdapter(BlockMethod[Options]):
    """Linear adapters in front of the attention and of the MLP: a <- a + s Up(dropout(Down a)), for a = norm1(x).

    Down (h, D) is dense; Up is a grouped 1 x 1 convolution with g `groups`, (D, h / g); both have biases and nothing
    stands between them. Which hidden unit belongs to which group is free, as the units are alike: unit j to group
    j mod g, so that widths that g does not divide work too. `size` is the width h. Count: 2 (D h + h + D h / g + D)
    per block (239,808 for ViT-B/16 at h = 8, g = 2; the paper leaves out the biases). Down starts Xavier and Up zero:
    zero-start. Mergeable into the layer behind, qkv or fc1, for W_A and W_B of Down and Up: with
    M = I + s W_B W_A and c = s (W_B b_A + b_B), W <- W M and b <- b + W c. The paper picks the scale s of each task
    among 0.1, 0.5, 1, 5 and 10; the default is 1. Dropout 0.1 acts on the hidden units. Source: Luo et al., Towards
    Efficient Visual Adaption via Structural Re-parameterization, 2023.
    """

    name = "repadapter"
    summary = "linear adapters in front of the attention and the MLP"
    paper = "RepAdapter (Luo et al., 2023)"
    sites = ("attn.in", "mlp.in")
    any_site = True
    size_means = "width"
    default_size = 8
    zero_start = True
    mergeable = True
    shifts_keys = True
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """Two linear bottlenecks."""
        return len(block.branches) * count_linear_bottleneck(
            block.width, block.width, placement.size, placement.options.groups
        )

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One linear adapter for each branch."""
        options = placement.options
        make = partial(LinearAdapter, block.width, placement.size, options.scale, options.dropout, options.groups)
        return nn.ModuleDict({branch: make() for branch in block.branches})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the inputs of the attention and of the MLP."""
        for branch in block.shape.branches:
            yield block.site(f"{branch}.in").change(module.get_submodule(branch))

    @torch.no_grad()
    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """Into the weight and bias of what reads those inputs; a layer without a bias gets one."""
        for branch, names in ((branch, BEHIND[branch]) for branch in block.shape.branches):
            adapter = module.get_submodule(branch)
            assert isinstance(adapter, LinearAdapter)
            weight, bias = adapter.bottleneck.folded()
            for layer in (each for each in block.shape.linears if set(each.names) & set(names)):
                own = block.matrix(layer)
                shift = adapter.scale * own @ bias
                own.add_(adapter.scale * own @ weight)
                block.add_to_bias(layer, shift)

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse groups that do not divide the channels."""
        width, groups = shape.blocks[placement.block].width, placement.options.groups
        if not isinstance(groups, int) or groups < 1 or width % groups:
            raise DesignError(
                f"option groups of repadapter must be a whole number that divides the {width} channels of "
                f"{shape.name}, got groups={groups}"
            )
