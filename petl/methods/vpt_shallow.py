"""Shallow visual prompt tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import Handle, Method
from petlas.petl.methods.vpt import Prompts, exchange
from petlas.petl.shape import BackboneShape


class VPTShallow(Method):
    """Learned tokens that join the sequence in front of the first block and flow through all of them.

    They stand behind the patch tokens (without position embedding the place makes no difference to attention) and
    leave before the final norm. `size` is the number of tokens p. Count: p D (76,800 for ViT-B/16 at p = 100). Drawn
    as those of VPT; V-PETL Bench draws them from +-sqrt(6 / D). By definition not zero-start; not mergeable. Source:
    Jia et al., Visual Prompt Tuning, 2022.
    """

    name = "vpt_shallow"
    summary = "learned tokens that flow through all blocks"
    paper = "VPT-Shallow (Jia et al., 2022)"
    sites = ("tokens",)
    size_means = "tokens"
    default_size = 100
    zero_start = False
    mergeable = False
    in_blocks = False
    in_backbone = True

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """p tokens of D channels."""
        (placement,) = placements
        return shape.width * (placement.size or 0)

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Prompts:
        """The tokens."""
        (placement,) = placements
        assert placement.size is not None
        return Prompts(placement.size, shape)

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """In at the first block, out in front of the norm."""
        assert isinstance(module, Prompts)
        yield model.get_submodule("blocks.0").register_forward_pre_hook(partial(exchange, None, module))
        yield model.get_submodule("norm").register_forward_pre_hook(partial(exchange, module, None))
