"""LoRand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import add_to
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed, whole
from petlas.petl.shape import BlockShape


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


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    beta: int = whole(8)


class LoRand(BlockMethod[Options]):
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
    any_site = True
    size_means = "branches"
    default_size = 2
    zero_start = False
    mergeable = False
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """Two adapters."""
        branches, rank = placement.size, placement.options.beta
        both = block.width + block.width // 2
        return len(block.branches) * (2 * branches * rank * both + branches * rank * rank + both)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One adapter for each branch of the block."""
        rank = placement.options.beta
        return nn.ModuleDict({site: MultiBranch(block.width, placement.size, rank) for site in block.branches})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """At the ends of the branches, behind LayerScale where there is one."""
        for branch in block.shape.branches:
            yield block.site(f"{branch}.out").change(partial(add_to, module.get_submodule(branch)))
