"""The two sequential adapters of Houlsby."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import Bottleneck, add_bottleneck, count_bottleneck, near_zero
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BlockShape


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    dropout: float = 0.0


class Houlsby(BlockMethod[Options]):
    """A bottleneck at the end of both branches: z <- z + Up(GELU(Down z)), for the attention's z and the MLP's.

    It stands behind drop-path, right before the residual sum, as in Adapter+'s code; the original has it behind its
    dropout, likewise. `size` is the bottleneck width h. Count: 2 (2 D h + h + D) per block (313,536 for ViT-B/16 at
    h = 8). Both weights start normal with a standard deviation of 0.01, truncated at two of them, as the paper says
    (its code has 0.001), and the biases at 0: near the backbone, not equal to it. Not mergeable. The paper also trains
    the layer norms: that is a method of its own, which can be placed beside this one, and is not counted here.
    Source: Houlsby et al., Parameter-Efficient Transfer Learning for NLP, 2019.
    """

    name = "houlsby"
    summary = "a bottleneck after the attention and one after the MLP"
    paper = "Adapter (Houlsby et al., 2019)"
    sites = ("attn.out", "mlp.out")
    any_site = True
    needs = ("attn.residual", "mlp.residual")
    size_means = "width"
    default_size = 8
    zero_start = False
    mergeable = False
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """Two bottlenecks."""
        return len(block.branches) * count_bottleneck(block.width, placement.size)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One bottleneck for each branch."""
        make = partial(
            Bottleneck,
            channels=block.width,
            width=placement.size,
            act=F.gelu,
            dropout=placement.options.dropout,
            init=partial(near_zero, std=0.01, cut=2.0),
        )
        return nn.ModuleDict({branch: make() for branch in block.branches})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """Behind the drop-path of each branch."""
        for branch in block.shape.branches:
            yield block.site(f"{branch}.residual").change(partial(add_bottleneck, module.get_submodule(branch)))
