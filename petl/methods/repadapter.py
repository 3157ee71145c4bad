"""RepAdapter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.methods.bottleneck import LinearBottleneck, count_linear_bottleneck
from petlas.petl.shape import BackboneShape

SITES = {"attn": "attn.qkv", "mlp": "mlp.fc1"}
"""The layers that an adapter stands in front of."""


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


class RepAdapter(BlockMethod):
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
    size_means = "width"
    default_size = 8
    zero_start = True
    mergeable = True
    options = {"scale": 1.0, "dropout": 0.1, "groups": 2}

    def _groups(self, placement: Placement) -> int:
        return int(self.option(placement, "groups") or 0)

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """Two linear bottlenecks."""
        assert placement.size is not None
        return 2 * count_linear_bottleneck(shape.width, shape.width, placement.size, self._groups(placement))

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One linear adapter for each site."""
        assert placement.size is not None
        scale, dropout = (float(self.option(placement, name) or 0.0) for name in ("scale", "dropout"))
        return nn.ModuleDict(
            {
                site: LinearAdapter(shape.width, placement.size, scale, dropout, self._groups(placement))
                for site in SITES
            }
        )

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """On the input of `attn.qkv` and `mlp.fc1`: nothing else in a block reads what norm1 and norm2 give."""
        for site, path in SITES.items():
            hook = partial(_adapt_input, module.get_submodule(site))
            yield block.get_submodule(path).register_forward_pre_hook(hook)

    @torch.no_grad()
    def merge_block(self, block: nn.Module, module: nn.Module) -> None:
        """Into the weight and bias of `attn.qkv` and `mlp.fc1`; a layer without a bias gets one."""
        for site, path in SITES.items():
            layer, adapter = block.get_submodule(path), module.get_submodule(site)
            assert isinstance(layer, nn.Linear) and isinstance(adapter, LinearAdapter)
            weight, bias = adapter.bottleneck.folded()
            shift = adapter.scale * layer.weight @ bias
            layer.weight.add_(adapter.scale * layer.weight @ weight)
            if layer.bias is None:
                layer.bias = nn.Parameter(shift, requires_grad=False)
            else:
                layer.bias.add_(shift)

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse groups that do not divide the channels."""
        super().check(shape, placement)
        groups = self.option(placement, "groups")
        if not isinstance(groups, int) or groups < 1 or shape.width % groups:
            raise DesignError(
                f"option groups of repadapter must be a whole number that divides the {shape.width} channels of "
                f"{shape.name}, got groups={groups}"
            )


def _adapt_input(adapter: nn.Module, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (adapter(args[0]),)
