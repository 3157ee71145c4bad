"""The sequential bottleneck adapter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.methods.bottleneck import Bottleneck, add_to_output, count_bottleneck
from petlas.petl.shape import BackboneShape


class Adapter(BlockMethod):
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
    options = {"dropout": 0.0}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """One bottleneck."""
        assert placement.size is not None
        return count_bottleneck(shape.width, placement.size)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One bottleneck."""
        assert placement.size is not None
        return Bottleneck(shape.width, placement.size, F.gelu, float(self.option(placement, "dropout") or 0.0))

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """Behind `ls2`, the end of the MLP branch (LayerScale, or the identity)."""
        yield block.get_submodule("ls2").register_forward_hook(partial(add_to_output, module))
