"""Adapter+."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.methods.bottleneck import Bottleneck, add_to_output, count_bottleneck, near_zero
from petlas.petl.shape import BackboneShape


class ScaledBottleneck(nn.Module):
    """x (B, N, D) to gamma * drop_path(Up(GELU(Down x))) (B, N, D), with a scale gamma (D) of each channel."""

    def __init__(self, channels: int, width: int, drop_path: float) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, width, F.gelu, 0.0, partial(near_zero, std=0.01, cut=2.0))
        self.drop_path = DropPath(drop_path)
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The scaled output, zero for the images that drop-path drops."""
        output: Tensor = self.drop_path(self.bottleneck(x)) * self.scale
        return output


class AdapterPlus(BlockMethod):
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
    options = {"drop_path": 0.1}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """One bottleneck and one scale."""
        assert placement.size is not None
        return count_bottleneck(shape.width, placement.size) + shape.width

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One bottleneck with its scale."""
        assert placement.size is not None
        return ScaledBottleneck(shape.width, placement.size, float(self.option(placement, "drop_path") or 0.0))

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """On the block's output."""
        yield block.register_forward_hook(partial(add_to_output, module))
