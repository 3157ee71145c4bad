"""The sequential bottleneck adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import Bottleneck, add_bottleneck, count_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BlockShape


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    dropout: float = 0.0


class Adapter(BlockMethod[Options]):
    """A bottleneck after the MLP, on the branch: m <- m + Up(GELU(Down m)), before drop-path and the residual sum.

    `size` is the bottleneck width h. Count: 2 D h + h + D per block (156,768 for ViT-B/16 at h = 8). Zero-start (Up
    and its bias are 0), not mergeable. NOAH's adapter sits here too, with QuickGELU in place of GELU. Source: Pfeiffer
    et al., AdapterFusion, 2021, as placed by VPT, V-PETL Bench and NOAH.
    """

    name = "adapter"
    summary = "a bottleneck after the MLP"
    paper = "Adapter (Houlsby et al., 2019; Pfeiffer et al., 2021)"
    sites = ("mlp.out",)
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
        """One bottleneck."""
        return Bottleneck(block.width, placement.size, F.gelu, placement.options.dropout)

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """At the end of the MLP branch, behind LayerScale where there is one."""
        yield block.site("mlp.out").change(partial(add_bottleneck, module))
