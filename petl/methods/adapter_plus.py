"""Adapter+."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import Bottleneck, count_bottleneck, near_zero
from petlas.petl.parts.branch import add_branch
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.joint import asks
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BlockShape


class ScaledBottleneck(nn.Module):
    """x (B, N, D) to x + gamma * drop_path(Up(GELU(Down x))) (B, N, D), with a scale gamma (D) of each channel."""

    def __init__(self, channels: int, width: int, drop_path: float) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, width, F.gelu, 0.0, partial(near_zero, std=0.01, cut=2.0))
        self.drop_path = DropPath(drop_path)
        self.scale = nn.Parameter(torch.ones(channels))

    @asks
    def forward(self, x: Tensor) -> Tensor:
        """The scaled output and the skip connection; nothing is added to the images that drop-path drops."""
        down, down_bias, up, up_bias = self.bottleneck.layers()
        assert up_bias is not None
        keep = None
        if self.training and (drops := self.drop_path.drop_prob):  # drawn as timm draws it
            keep = up_bias.new_empty(len(x), 1, 1).bernoulli_(1 - drops).div_(1 - drops)
        layers = (down, down_bias, self.scale[:, None] * up, self.scale * up_bias)  # less than to scale the tokens
        return add_branch(None, x, layers, F.gelu, keep=keep)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    drop_path: float = 0.1


class AdapterPlus(BlockMethod[Options]):
    """A bottleneck behind the block with a learned scale of each channel: x <- x + gamma * Up(GELU(Down x)).

    There is no layer norm. `size` is the bottleneck width h. Count: 2 D h + h + 2 D per block (165,984 for ViT-B/16
    at h = 8). Both weights start normal with a standard deviation of 0.01, truncated at two of them, the biases at 0
    and gamma at 1: near the backbone, not equal to it. Not mergeable. `drop_path` drops the adapter for whole images in
    training, 0.1 as in the paper. Source: Steitz and Roth, Adapters Strike Back, 2024.
    """

    name = "adapter_plus"
    summary = "a bottleneck with a scale of each channel behind the block"
    paper = "Adapter+ (Steitz & Roth, 2024)"
    sites = ("block.out",)
    size_means = "width"
    default_size = 8
    zero_start = False
    mergeable = False
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """One bottleneck and one scale."""
        return count_bottleneck(block.width, placement.size) + block.width

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One bottleneck with its scale."""
        return ScaledBottleneck(block.width, placement.size, placement.options.drop_path)

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the block's output."""
        yield block.site("block.out").change(module)
