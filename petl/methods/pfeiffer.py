"""The adapter of AdapterFusion, as AdapterHub places it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import Bottleneck, add_to, count_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BlockShape


def _normal(down: Tensor, up: Tensor) -> None:
    for weight in (down, up):
        nn.init.normal_(weight, std=0.02)


class NormedBottleneck(nn.Module):
    """x (B, N, D) to Up(GELU(Down LN(x))) (B, N, D), with a layer norm of its own."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.bottleneck = Bottleneck(channels, width, F.gelu, dropout, _normal)

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck's output from the normalised stream."""
        output: Tensor = self.bottleneck(self.norm(x))
        return output


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    dropout: float = 0.0


class Pfeiffer(BlockMethod[Options]):
    """A bottleneck with a new layer norm behind the MLP's residual sum: x <- x + Up(GELU(Down LN(x))).

    Two things are called Pfeiffer adapter. This is AdapterHub's: with y the stream in front of the MLP and m the MLP's
    branch, the adapter reads both, and y + m + A(LN(y + m)) leaves the block. What VPT, V-PETL Bench and others call
    so, m + A(m) on the branch alone, is the method `adapter`. `size` is the bottleneck width h. Count: 2 D h + h + D
    for the bottleneck and 2 D for the norm, per block (175,200 for ViT-B/16 at h = 8). Weights start as N(0, 0.02), as
    in BERT, biases at 0: near the backbone, not equal to it. Not mergeable. Source: Pfeiffer et al., AdapterFusion,
    2021, as written for ViT in Steitz and Roth, Adapters Strike Back, 2024.
    """

    name = "pfeiffer"
    summary = "a bottleneck with a layer norm behind the block"
    paper = "AdapterFusion (Pfeiffer et al., 2021)"
    sites = ("block.out",)
    size_means = "width"
    default_size = 8
    zero_start = False
    mergeable = False
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """One bottleneck and one norm."""
        return count_bottleneck(block.width, placement.size) + 2 * block.width

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One bottleneck with its norm."""
        return NormedBottleneck(block.width, placement.size, placement.options.dropout)

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the block's output."""
        yield block.site("block.out").change(partial(add_to, module))
