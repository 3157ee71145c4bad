"""Convpass, in both of its forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.bottleneck import Bottleneck, count_bottleneck, xavier_zero
from petlas.petl.parts.conv_branch import Place, add_conv_branch
from petlas.petl.parts.grid import GridMethod, TokenGrid
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.joint import asks
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.stream import Carry
from petlas.petl.shape import BlockShape


def quick_gelu(z: Tensor) -> Tensor:
    """z sigmoid(1.702 z)."""
    return z * torch.sigmoid(1.702 * z)


class ConvBottleneck(Bottleneck):
    """n (B, N, D) to Up(dropout(act(Conv(act(Down n))))) (B, N, D): Conv (h, h, 3, 3) with zero padding on the grid."""

    axes = Bottleneck.axes | {"conv": (0, 1), "conv_bias": 0}

    def __init__(self, shape: BlockShape, width: int, dropout: float, identity: bool) -> None:
        super().__init__(shape.width, width, quick_gelu, dropout, xavier_zero)
        self.grid = TokenGrid(shape)
        self.conv = nn.Parameter(torch.empty(width, width, 3, 3))
        self.conv_bias = nn.Parameter(torch.zeros(width))
        if identity:
            nn.init.dirac_(self.conv)
        else:
            nn.init.xavier_uniform_(self.conv)

    def hidden(self, x: Tensor) -> Tensor:
        """What Up reads, (B, N, h)."""
        return self.act(self.grid(super().hidden(x), self._convolve))

    def all_layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Down, Conv and Up, each with its bias, as far as they are active."""
        assert self.up_bias is not None
        narrowed = (self.part(name) for name in ("down", "down_bias", "conv", "conv_bias", "up"))
        down, down_bias, conv, conv_bias, up = narrowed
        return down, down_bias, conv, conv_bias, up, self.up_bias

    @property
    def place(self) -> Place:
        """Where the convolution runs."""
        return Place(self.grid.first, self.grid.size)

    def _convolve(self, z: Tensor) -> Tensor:
        return F.conv2d(z, self.part("conv"), self.part("conv_bias"), padding=1)


class ConvBranch(Carry):
    """A bottleneck beside the attention or the MLP: it reads what the norm gives and adds behind drop-path.

    It works at a pair of sites: at one it keeps the bottleneck's input, at the other it uses it and lets it go.
    """

    def __init__(self, bottleneck: ConvBottleneck, scale: float) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.scale = scale

    @asks
    def write(self, drop_path: nn.Module, output: Tensor) -> Tensor:
        """Add this branch to that of the backbone (B, N, D), with a drop-path of its own at the same rate.

        Args:
            drop_path: The backbone's.
            output: The end of the backbone's branch.
        """
        n, bottleneck = self.carried(), self.bottleneck
        keep = None
        if drop_path.training and not isinstance(drop_path, nn.Identity):
            keep = drop_path.forward(n.new_ones(len(n), 1, 1))  # past the hooks: those are the backbone branch's
        dropout = bottleneck.dropout if self.training else 0.0
        return add_conv_branch(output, n, bottleneck.all_layers(), bottleneck.place, dropout, self.scale, keep)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    scale: float = 1.0
    dropout: float = 0.1
    identity: bool = False


class ConvpassAttn(GridMethod[Options]):
    """A convolutional bottleneck beside the attention: x <- x + dp(attn(n)) + s dp(Up(act(Conv(act(Down n))))).

    n (B, N, D) is norm1(x), act is QuickGELU z sigmoid(1.702 z), dp the block's drop-path, drawn for itself. The 3 x 3
    convolution runs over the grid of patches with zero padding. Class, register and prompt tokens have no place on the
    grid: each is convolved alone, as a map of 1 x 1, with the same weights, which is what the paper does with the class
    token. The branch stays outside LayerScale, where a backbone has one. `size` is the width h.
    Count: 2 D h + h + D + 9 h^2 + h per block (163,776 for ViT-B/16 at h = 8). Down starts Xavier, Up and the biases
    at 0: zero-start. The convolution starts Xavier, or, with `identity`, as the identity: the paper picks either for
    each task, and the scale s among 0.01, 0.1, 1, 10 and 100; the defaults are Xavier and 1. Dropout 0.1 stands in
    front of Up. Not mergeable. Source: Jie and Deng, Convolutional Bypasses Are Better Vision Transformer Adapters,
    2022.
    """

    name = "convpass_attn"
    summary = "a convolutional bottleneck beside the attention"
    paper = "Convpass (Jie & Deng, 2022)"
    sites: ClassVar[tuple[str, ...]] = ("attn",)
    size_means = "width"
    default_size = 8
    zero_start = True
    mergeable = False
    option_type = Options
    needs: ClassVar[tuple[str, ...]] = ("images", "attn.normed", "attn.residual")
    branches: ClassVar[tuple[str, ...]] = ("attn",)
    """Those that a bottleneck stands beside."""

    def _of(self, block: BlockShape) -> list[str]:
        """The branches that a block has."""
        return [branch for branch in self.branches if branch in block.branches]

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """A bottleneck and a convolution for each branch."""
        width = placement.size
        return len(self._of(block)) * (count_bottleneck(block.width, width) + 9 * width * width + width)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One `ConvBranch` for each branch."""
        options = placement.options
        make = partial(ConvBottleneck, block, placement.size, options.dropout, options.identity)
        return nn.ModuleDict({branch: ConvBranch(make(), options.scale) for branch in self._of(block)})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """From the norm to the end of each branch."""
        for name in self._of(block.shape):
            branch = module.get_submodule(name)
            assert isinstance(branch, ConvBranch)
            yield block.site(f"{name}.normed").read(branch.carry)
            yield block.site(f"{name}.residual").change(partial(branch.write, block.family.drop_path(block, name)))


class Convpass(ConvpassAttn):
    """Convolutional bottlenecks beside the attention and beside the MLP: see `ConvpassAttn`, once with each norm.

    Count: 2 (2 D h + h + D + 9 h^2 + h) per block (327,552 for ViT-B/16 at h = 8).
    """

    name = "convpass"
    summary = "convolutional bottlenecks beside the attention and the MLP"
    sites = ("attn", "mlp")
    any_site = True
    needs = (*ConvpassAttn.needs, "mlp.normed", "mlp.residual")
    branches = ("attn", "mlp")
