"""LoRand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import BlockMethod, Elastic, Handle
from petlas.petl.methods.bottleneck import add_to_output
from petlas.petl.shape import BackboneShape


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class MultiBranch(Elastic):
    """z (B, N, D) to U GELU(V z + b_V) + b_U (B, N, D), where V (D / 2, D) and U (D, D / 2) are sums of a products.

    V = sum_i (P_i K_i Q_i)^T with P_i (D, b), K_i (b, b) and Q_i (b, D / 2), U likewise from D / 2 to D, and with the
    same K_i. Every factor starts uniform in +-1 / sqrt(its columns), a bias in +-1 / sqrt(inputs of its layer).
    """

    axes = dict.fromkeys(("kernel", "down_left", "down_right", "up_left", "up_right"), 0)
    summed = "kernel"

    def __init__(self, channels: int, branches: int, rank: int) -> None:
        super().__init__(branches)
        half = channels // 2
        self.kernel = _uniform(branches, rank, rank, fan_in=rank)
        self.down_left = _uniform(branches, channels, rank, fan_in=rank)
        self.down_right = _uniform(branches, rank, half, fan_in=half)
        self.down_bias = _uniform(half, fan_in=channels)
        self.up_left = _uniform(branches, half, rank, fan_in=rank)
        self.up_right = _uniform(branches, rank, channels, fan_in=channels)
        self.up_bias = _uniform(channels, fan_in=half)

    def forward(self, z: Tensor) -> Tensor:
        """The adapter's output, without the skip connection."""
        kernel = self.part("kernel")
        down = (self.part("down_left") @ kernel @ self.part("down_right")).sum(0)
        up = (self.part("up_left") @ kernel @ self.part("up_right")).sum(0)
        return F.linear(F.gelu(F.linear(z, down.T, self.down_bias)), up.T, self.up_bias)


class LoRand(BlockMethod):
    """Adapters of half the width, made of low-rank products, on both branches: z <- z + U GELU(V z + b_V) + b_U.

    V and U are sums of a low-rank products P_i K_i Q_i with inner side b (`beta`). The kernels K_i are shared by V and
    U, as in the reading that counts the published 1.20M on Swin-B best; other code does not share them. The adapters
    stand at the end of the attention branch and of the MLP branch, behind LayerScale where there is one and in front of
    drop-path. `size` is the number of branches a (alpha in the paper), as branches can be added and left out one by
    one; b stays as it is. Count: 2 a b 1.5 D + a b^2 + 1.5 D, twice per block (915,456 for ViT-B/16 at a = 2, b = 8).
    All factors start Kaiming-uniform: not zero-start. Not mergeable. Source: Yin et al., 1% VS 100%:
    Parameter-Efficient Low Rank Adapter for Dense Predictions, 2023.
    """

    name = "lorand"
    summary = "adapters made of low-rank products after the attention and the MLP"
    paper = "LoRand (Yin et al., 2023)"
    sites = ("attn.out", "mlp.out")
    size_means = "branches"
    default_size = 2
    zero_start = False
    mergeable = False
    options = {"beta": 8}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """Two adapters."""
        branches, rank = placement.size, int(self.option(placement, "beta") or 0)
        assert branches is not None
        both = shape.width + shape.width // 2
        return 2 * (2 * branches * rank * both + branches * rank * rank + both)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One adapter for each branch of the block."""
        assert placement.size is not None
        rank = int(self.option(placement, "beta") or 0)
        return nn.ModuleDict({site: MultiBranch(shape.width, placement.size, rank) for site in ("attn", "mlp")})

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """Behind `ls1` and `ls2`, the ends of the branches (LayerScale, or the identity)."""
        for site, layer in (("attn", "ls1"), ("mlp", "ls2")):
            yield block.get_submodule(layer).register_forward_hook(partial(add_to_output, module.get_submodule(site)))

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse an inner side that is none."""
        super().check(shape, placement)
        rank = self.option(placement, "beta")
        if not isinstance(rank, int) or rank < 1:
            raise DesignError(f"option beta of lorand must be a whole number of at least 1, got beta={rank}")
