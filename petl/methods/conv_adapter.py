"""Conv-Adapter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.backbones.site import Layout
from petlas.petl.design import DesignError, Placement
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.stream import Carry
from petlas.petl.shape import BackboneShape, BlockShape

MODES = {
    "conv_parallel": ("conv.in", "conv.out"),
    "conv_sequential": ("conv.out", "conv.out"),
    "residual_parallel": ("block.in", "mlp.out"),
    "residual_sequential": ("block.out", "block.out"),
}
"""Where each reads, and where it adds."""

USUAL_KERNEL = 3
"""Where a block has no convolution of its own."""


class ConvBottleneck(Elastic, Carry):
    """A map x (B, I, H, W) to gamma Up(ReLU(Conv x)) (B, O, H / s, W / s); Conv has h groups of I / h inputs.

    Conv is stored as one filter (k, k) for each input (I, k, k): a narrower module sums more inputs in each hidden
    unit. All but gamma, which is 1, start as PyTorch's convolutions do. Parameters: I k k + h + h O + 2 O.
    """

    axes = {"filter_bias": 0, "up": 1}

    def __init__(self, inputs: int, outputs: int, width: int, kernel: int) -> None:
        super().__init__(width)
        self.filters = nn.Parameter(torch.empty(inputs, kernel, kernel))
        self.filter_bias = nn.Parameter(torch.empty(width))
        self.up = nn.Parameter(torch.empty(outputs, width))
        self.up_bias = nn.Parameter(torch.empty(outputs))
        self.gamma = nn.Parameter(torch.ones(outputs))
        reach = inputs // width * kernel * kernel
        for fan, weight, bias in ((reach, self.filters, self.filter_bias), (width, self.up, self.up_bias)):
            nn.init.uniform_(weight, -1 / math.sqrt(fan), 1 / math.sqrt(fan))
            nn.init.uniform_(bias, -1 / math.sqrt(fan), 1 / math.sqrt(fan))

    def forward(self, x: Tensor, places: int | None = None) -> Tensor:
        """The bottleneck's output as tokens (B, N, O), row by row.

        Args:
            x: The map.
            places: N, by which the stride is found; None for all of them.
        """
        rows, columns = x.shape[2:]
        stride = 1 if places is None else round(math.sqrt(rows * columns / places))
        weight = self.filters.unflatten(0, (self.active, -1))
        padding = weight.shape[-1] // 2
        hidden = F.conv2d(x, weight, self.part("filter_bias"), stride, padding, groups=self.active).relu()
        tokens = F.linear(hidden.flatten(2).transpose(1, 2), self.part("up"), self.up_bias)
        return tokens * self.gamma

    def keep(self, layout: Layout, x: Tensor) -> None:
        """Keep a map for `join`.

        Args:
            layout: How it lies.
            x: The map.
        """
        self.carry(_map(x, layout))

    def join(self, tokens: Tensor) -> Tensor:
        """Add to the tokens (B, N, O) what was kept, through the bottleneck."""
        added: Tensor = tokens + self(self.carried(), tokens.shape[1])
        return added

    def follow(self, layout: Layout, x: Tensor) -> Tensor:
        """Add to a map what the bottleneck makes of it.

        Args:
            layout: How it lies.
            x: The map.
        """
        as_map = _map(x, layout)
        made: Tensor = self(as_map).transpose(1, 2).unflatten(2, as_map.shape[2:])
        return x + (made if layout == "NCHW" else made.permute(0, 2, 3, 1))


def _map(x: Tensor, layout: Layout) -> Tensor:
    return x if layout == "NCHW" else x.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Options:
    """What a placement may set.

    Args:
        mode: One of `MODES`.
    """

    mode: str = "conv_parallel"


class ConvAdapter(BlockMethod[Options]):
    """A bottleneck of a grouped k x k and a 1 x 1 convolution, beside or behind a convolution or the residual branch.

    `mode` is one of `conv_parallel`: from the input of the block's k x k convolution, added to its output, behind its
    norm where that is a module of its own; `conv_sequential`: z <- z + A(z) there; `residual_parallel`: from what
    enters the block, added to the end of its branch; `residual_sequential`: z <- z + A(z) on what leaves the block. The
    kernel is the convolution's, the stride what the maps ask for. On Swin the convolution's part is played by the
    attention, from the map in front of it to the end of its branch, with kernels of 3 x 3. `size` is the width h, which
    has to divide the inputs I; the paper has I / 8. Count: I k k + h + h O + 2 O (R50 at I / 8: 199,192; ConvNeXt-T:
    743,004, and 796,848 as printed with those of the downsamplings, which belong to no block). gamma starts at 1: not
    zero-start. Not mergeable. Source: Chen et al., Conv-Adapter: Exploring Parameter Efficient Transfer Learning for
    ConvNets, 2024; the activation and the place behind the norm are its code's.
    """

    name = "conv_adapter"
    summary = "convolutional bottlenecks beside or behind convolutions or blocks"
    paper = "Conv-Adapter (Chen et al., 2024)"
    sites = ("conv.in", "conv.out", "mlp.out", "block.out")
    needs = ("conv.in",)
    size_means = "width"
    default_size = 8
    zero_start = False
    mergeable = False
    option_type = Options

    def sites_of(self, placement: Placement) -> tuple[str, ...]:
        """Those of its mode."""
        return tuple(dict.fromkeys(MODES.get(self.placed(placement).options.mode, self.sites)))

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """One bottleneck."""
        inputs, outputs, kernel = _sides(block, placement.options.mode)
        return inputs * kernel * kernel + placement.size + placement.size * outputs + 2 * outputs

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One bottleneck, under the name of its mode."""
        inputs, outputs, kernel = _sides(block, placement.options.mode)
        mode = placement.options.mode
        return nn.ModuleDict({mode: ConvBottleneck(inputs, outputs, placement.size, kernel)})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """At the sites of its mode."""
        for mode, adapter in module.named_children():
            assert isinstance(adapter, ConvBottleneck)
            reads, adds = (block.site(name) for name in MODES[mode])
            if reads == adds:
                yield replace(adds, raw=True).change(partial(adapter.follow, adds.layout))
            else:
                yield replace(reads, raw=True).read(partial(adapter.keep, reads.layout))
                yield adds.change(adapter.join)

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse unknown modes, and widths that do not divide the inputs."""
        mode = placement.options.mode
        if mode not in MODES:
            raise DesignError(f"option mode of {self.name} must be one of {', '.join(MODES)}, got mode={mode!r}")
        inputs, _, _ = _sides(shape.blocks[placement.block], mode)
        if inputs % placement.size:
            near = [n for n in range(1, inputs + 1) if inputs % n == 0]
            raise DesignError(
                f"the width of {self.name} must divide the {inputs} channels that it reads in block {placement.block}, "
                f"got size={placement.size}; take one of {', '.join(map(str, near))}"
            )


def _sides(block: BlockShape, mode: str) -> tuple[int, int, int]:
    """Inputs, outputs and kernel of a bottleneck."""
    host = next((layer for layer in block.layers if layer.names == ("conv",)), None)
    kernel = USUAL_KERNEL if host is None else host.kernel
    if mode.startswith("conv") and host is not None:
        return host.inputs if mode == "conv_parallel" else host.outputs, host.outputs, kernel
    entering = block.layers[0].inputs if mode == "residual_parallel" else block.width
    return entering, block.width, kernel
