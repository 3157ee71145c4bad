"""AdaptFormer."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.methods.bottleneck import Bottleneck, count_bottleneck
from petlas.petl.shape import BackboneShape


class ParallelBranch(nn.Module):
    """A bottleneck beside the MLP: it reads the stream in front of norm2 and adds to the stream behind the block.

    It works on a pair of hooks: one keeps the input, the other computes the branch and adds it.
    """

    def __init__(self, bottleneck: Bottleneck, scale: float) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.scale = scale
        self._input: Tensor | None = None

    def read(self, layer: nn.Module, args: tuple[Tensor]) -> None:
        """Keep the un-normalised stream (B, N, D)."""
        self._input = args[0]

    def write(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Add the branch to the block's output, outside drop-path."""
        x, self._input = self._input, None
        assert x is not None
        added: Tensor = output + self.scale * self.bottleneck(x)
        return added


class AdaptFormer(BlockMethod):
    """A bottleneck parallel to the MLP: x <- x + MLP(LN x) + s Up(dropout(ReLU(Down x))), fed by the stream itself.

    `size` is the bottleneck width h. Count: 2 D h + h + D per block (156,768 for ViT-B/16 at h = 8). Zero-start
    (Up = 0), not mergeable. Scale s = 0.1 and dropout 0.1 as in the paper; no layer norm, as its image recipes set.
    Source: Chen et al., AdaptFormer, 2022.
    """

    name = "adaptformer"
    summary = "a bottleneck parallel to the MLP"
    paper = "AdaptFormer (Chen et al., 2022)"
    sites = ("mlp",)
    size_means = "width"
    default_size = 8
    zero_start = True
    mergeable = False
    known_strong = True
    options = {"scale": 0.1, "dropout": 0.1}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """One bottleneck."""
        assert placement.size is not None
        return count_bottleneck(shape.width, placement.size)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One bottleneck with its scale."""
        assert placement.size is not None
        scale, dropout = self.option(placement, "scale"), self.option(placement, "dropout")
        bottleneck = Bottleneck(shape.width, placement.size, F.relu, float(dropout or 0.0))
        return ParallelBranch(bottleneck, float(scale or 0.0))

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """From the input of norm2 to the block's output."""
        assert isinstance(module, ParallelBranch)
        yield block.get_submodule("norm2").register_forward_pre_hook(module.read)
        yield block.register_forward_hook(module.write)
