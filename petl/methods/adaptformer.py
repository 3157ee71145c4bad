"""AdaptFormer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import Bottleneck, count_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.joint import asks
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.stream import Carry
from petlas.petl.shape import BlockShape


class ParallelBranch(Carry):
    """A bottleneck beside the MLP: it reads the stream in front of norm2 and adds to the stream behind the block.

    It works at a pair of sites: at one it keeps the input, at the other it computes the branch and adds it.
    """

    def __init__(self, bottleneck: Bottleneck, scale: float) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.scale = scale

    @asks
    def write(self, output: Tensor) -> Tensor:
        """Add the branch to the block's output (B, N, D), outside drop-path."""
        return self.bottleneck.added_to(output, self.carried(), self.scale)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    scale: float = 0.1
    dropout: float = 0.1


class AdaptFormer(BlockMethod[Options]):
    """A bottleneck parallel to the MLP: x <- x + MLP(LN x) + s Up(dropout(ReLU(Down x))), fed by the stream itself.

    `size` is the bottleneck width h. Count: 2 D h + h + D per block (156,768 for ViT-B/16 at h = 8). Zero-start
    (Up = 0), not mergeable. Scale s = 0.1 and dropout 0.1 as in the paper; no layer norm, as its image recipes set.
    Source: Chen et al., AdaptFormer, 2022.
    """

    name = "adaptformer"
    summary = "a bottleneck parallel to the MLP"
    paper = "AdaptFormer (Chen et al., 2022)"
    sites = ("mlp",)
    needs = ("mlp.stream", "block.out")
    size_means = "width"
    default_size = 8
    zero_start = True
    mergeable = False
    known_strong = True
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """One bottleneck."""
        return count_bottleneck(block.width, placement.size)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One bottleneck with its scale."""
        scale, dropout = placement.options.scale, placement.options.dropout
        bottleneck = Bottleneck(block.width, placement.size, F.relu, float(dropout or 0.0))
        return ParallelBranch(bottleneck, float(scale or 0.0))

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """From the stream that the MLP's norm reads to the block's output."""
        assert isinstance(module, ParallelBranch)
        yield block.site("mlp.stream").read(module.carry)
        yield block.site("block.out").change(module.write)
