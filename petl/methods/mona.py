"""Mona."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.bottleneck import Bottleneck, add_to, count_bottleneck, near_zero
from petlas.petl.parts.grid import GridMethod, TokenGrid
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.stream import SITES as BETWEEN
from petlas.petl.parts.stream import Between
from petlas.petl.shape import BlockShape

KERNELS = (3, 5, 7)
"""Sides of the depth-wise filters."""


class MultiFilter(Bottleneck):
    """x (B, N, D) to Up(dropout(GELU(op(Down(gamma * LN(x) + gamma_x * x))))) (B, N, D), op on the grid of patches.

    op(z) = c + W c + b with c = z + (dw3(z) + dw5(z) + dw7(z)) / 3: depth-wise filters, then a 1 x 1 convolution W.
    """

    axes = Bottleneck.axes | {
        "mix": (0, 1),
        "mix_bias": 0,
        **{f"filter{side}": 0 for side in KERNELS},
        **{f"filter{side}_bias": 0 for side in KERNELS},
    }

    def __init__(self, shape: BlockShape, width: int, dropout: float) -> None:
        super().__init__(shape.width, width, F.gelu, dropout, partial(near_zero, std=0.02, cut=100.0))
        self.grid = TokenGrid(shape)
        self.norm = nn.LayerNorm(shape.width)
        self.norm_scale = nn.Parameter(torch.full((shape.width,), 1e-6))
        self.stream_scale = nn.Parameter(torch.ones(shape.width))
        for side in KERNELS:
            self._add_conv(f"filter{side}", (width, 1, side, side))
        self._add_conv("mix", (width, width, 1, 1))

    def _add_conv(self, name: str, shape: tuple[int, int, int, int]) -> None:
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)))

    def hidden(self, x: Tensor) -> Tensor:
        """What Up reads, (B, N, h)."""
        z = self.reduce(self.norm(x) * self.norm_scale + x * self.stream_scale)
        return self.act(self.grid(z, self._filter))

    def _filter(self, z: Tensor) -> Tensor:
        filtered = [
            F.conv2d(z, self.part(f"filter{side}"), self.part(f"filter{side}_bias"), padding="same", groups=self.active)
            for side in KERNELS
        ]
        z = z + sum(filtered) / len(KERNELS)
        return z + F.conv2d(z, self.part("mix"), self.part("mix_bias"))


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    dropout: float = 0.1


class Mona(GridMethod[Options]):
    """Adapters with several filters on the stream, behind the attention's residual sum and behind the MLP's.

    x <- x + Up(dropout(GELU(op(Down(gamma * LN(x) + gamma_x * x))))), with op the depth-wise 3 x 3, 5 x 5 and 7 x 7
    filters, their mean and a 1 x 1 convolution, both with skip connections. The paper's Swin has patches only. Here
    they are convolved on their grid with zero padding, and the class, register and prompt tokens each alone, as a map
    of 1 x 1, as Convpass does. `size` is the width h, 64 in the paper. Count: 2 D h + h + D for the bottleneck, 4 D
    for norm and scales, 83 h + 3 h for the filters and h^2 + h for the 1 x 1 convolution, twice per block
    (2,684,928 for ViT-B/16 at h = 64; the paper's own counts on Swin are not explained by its code). Down and Up start
    normal with a standard deviation of 0.02, gamma at 1e-6, gamma_x at 1, convolutions and their biases uniform in
    +-1 / sqrt(fan-in): not zero-start. Not mergeable. Dropout 0.1 stands in front of Up. Source: Yin et al.,
    5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks, 2025.
    """

    name = "mona"
    summary = "adapters with several filters behind the attention and the MLP"
    paper = "Mona (Yin et al., 2025)"
    sites = ("attn.residual", "block.out")
    any_site = True
    needs = ("images", *BETWEEN)
    size_means = "width"
    default_size = 64
    zero_start = False
    mergeable = False
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """Two adapters."""
        width = placement.size
        filters = sum((side * side + 1) * width for side in KERNELS) + width * width + width
        return len(block.branches) * (count_bottleneck(block.width, width) + 4 * block.width + filters)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One adapter for each residual sum."""
        make = partial(MultiFilter, block, placement.size, placement.options.dropout)
        return nn.ModuleDict({b: Between(make()) if b == "attn" else make() for b in block.branches})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """Between attention and MLP, and on the block's output."""
        for between in (part for part in module.children() if isinstance(part, Between)):
            yield from between.attach(block)
        yield block.site("block.out").change(partial(add_to, module.get_submodule("mlp")))
