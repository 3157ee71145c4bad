"""Convpass, in both of its forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import Handle
from petlas.petl.methods.bottleneck import Bottleneck, count_bottleneck, xavier_zero
from petlas.petl.methods.grid import GridMethod, TokenGrid
from petlas.petl.shape import BackboneShape


def quick_gelu(z: Tensor) -> Tensor:
    """z sigmoid(1.702 z)."""
    return z * torch.sigmoid(1.702 * z)


class ConvBottleneck(Bottleneck):
    """n (B, N, D) to Up(dropout(act(Conv(act(Down n))))) (B, N, D): Conv (h, h, 3, 3) with zero padding on the grid."""

    axes = Bottleneck.axes | {"conv": (0, 1), "conv_bias": 0}

    def __init__(self, shape: BackboneShape, width: int, dropout: float, identity: bool) -> None:
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

    def _convolve(self, z: Tensor) -> Tensor:
        return F.conv2d(z, self.part("conv"), self.part("conv_bias"), padding=1)


class ConvBranch(nn.Module):
    """A bottleneck beside the attention or the MLP: it reads what the norm gives and adds behind drop-path.

    It works on a pair of hooks: one keeps the bottleneck's input, the other uses it and lets it go.
    """

    def __init__(self, bottleneck: ConvBottleneck, scale: float) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.scale = scale
        self._normed: Tensor | None = None

    def read(self, norm: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        """Hook of the norm: keep its output (B, N, D)."""
        self._normed = output

    def write(self, drop_path: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Hook of drop-path: add this branch to that of the backbone, with a drop-path of its own at the same rate."""
        normed, self._normed = self._normed, None
        assert normed is not None
        branch = drop_path.forward(self.bottleneck(normed))  # past the hooks, which are for the backbone's branch
        added: Tensor = output + self.scale * branch
        return added


class ConvpassAttn(GridMethod):
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
    options = {"scale": 1.0, "dropout": 0.1, "identity": False}
    branches: ClassVar[Mapping[str, tuple[str, str]]] = {"attn": ("norm1", "drop_path1")}
    """Where each branch reads and writes."""

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """A bottleneck and a convolution for each branch."""
        width = placement.size
        assert width is not None
        return len(self.branches) * (count_bottleneck(shape.width, width) + 9 * width * width + width)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One `ConvBranch` for each branch."""
        assert placement.size is not None
        scale, dropout = (float(self.option(placement, name) or 0.0) for name in ("scale", "dropout"))
        identity = bool(self.option(placement, "identity"))
        make = partial(ConvBottleneck, shape, placement.size, dropout, identity)
        return nn.ModuleDict({site: ConvBranch(make(), scale) for site in self.branches})

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """From the norm to the end of each branch."""
        for site, (norm, drop_path) in self.branches.items():
            branch = module.get_submodule(site)
            assert isinstance(branch, ConvBranch)
            yield block.get_submodule(norm).register_forward_hook(branch.read)
            yield block.get_submodule(drop_path).register_forward_hook(branch.write)


class Convpass(ConvpassAttn):
    """Convolutional bottlenecks beside the attention and beside the MLP: see `ConvpassAttn`, once with each norm.

    Count: 2 (2 D h + h + D + 9 h^2 + h) per block (327,552 for ViT-B/16 at h = 8).
    """

    name = "convpass"
    summary = "convolutional bottlenecks beside the attention and the MLP"
    sites = ("attn", "mlp")
    branches = {"attn": ("norm1", "drop_path1"), "mlp": ("norm2", "drop_path2")}
