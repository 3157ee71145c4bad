"""Shallow visual prompt tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

from petlas.petl.backbones import family_of
from petlas.petl.design import Placement
from petlas.petl.methods.vpt import Prompts, exchange
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.shape import BackboneShape


class VPTShallow(Method[NoOptions]):
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
    needs = ("block.in", "norm.in")
    size_means = "tokens"
    default_size = 100
    zero_start = False
    mergeable = False
    in_blocks = False
    in_backbone = True
    option_type = NoOptions

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """p tokens of D channels."""
        (placement,) = placements
        return shape.width * placement.size

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> Prompts:
        """The tokens."""
        (placement,) = placements
        return Prompts(placement.size, shape)

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """In at the first block, out in front of the norm."""
        assert isinstance(module, Prompts)
        family = family_of(model)
        yield family.site(model, "block.in", 0).change(partial(exchange, None, module))
        yield family.site(model, "norm.in").change(partial(exchange, module, None))

    def spread(self, placements: Sequence[Placement], depth: int) -> int:
        """Through all blocks."""
        return depth * super().spread(placements, depth)

    def strays(self, placements: Sequence[Placement], depth: int) -> bool:
        """They flow through all blocks."""
        return True
