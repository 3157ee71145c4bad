"""The two sequential adapters of Houlsby."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.methods.bottleneck import Bottleneck, add_to_output, count_bottleneck, near_zero
from petlas.petl.shape import BackboneShape


class Houlsby(BlockMethod):
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
    size_means = "width"
    default_size = 8
    zero_start = False
    mergeable = False
    options = {"dropout": 0.0}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """Two bottlenecks."""
        assert placement.size is not None
        return 2 * count_bottleneck(shape.width, placement.size)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One bottleneck for each branch."""
        assert placement.size is not None
        make = partial(
            Bottleneck,
            channels=shape.width,
            width=placement.size,
            act=F.gelu,
            dropout=float(self.option(placement, "dropout") or 0.0),
            init=partial(near_zero, std=0.01, cut=2.0),
        )
        return nn.ModuleDict({"attn": make(), "mlp": make()})

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """Behind the drop-path of each branch."""
        for name, layer in (("attn", "drop_path1"), ("mlp", "drop_path2")):
            hook = partial(add_to_output, module.get_submodule(name))
            yield block.get_submodule(layer).register_forward_hook(hook)
