"""E3VA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import Family
from petlas.petl.design import Placement
from petlas.petl.methods.lorand import MultiBranch, Options
from petlas.petl.parts.bottleneck import add_to
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.side import Side
from petlas.petl.shape import BackboneShape

BRANCHES = ("attn", "mlp")


class Highway(Side):
    """Two adapters for each block, beside the backbone: they read its branches as plain data.

    Maps and tokens have their channels on the last axis here, whatever is in front of it.
    """

    def __init__(self, shape: BackboneShape, branches: int, rank: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({site: MultiBranch(block.width, branches, rank) for site in BRANCHES})
            for block in shape.blocks
        )

    def forward(self, h: Tensor, branches: Sequence[Tensor], arrive: Callable[[int, Tensor], Tensor]) -> Tensor:
        """What enters the first block (B, ..., D) to what leaves the last one.

        Args:
            h: z_0.
            branches: a and m of each block, in their order.
            arrive: What stands between a block, by its index, and the one before.
        """
        for index, adapters in enumerate(self.blocks):
            h = arrive(index, h)
            for branch, joined in zip(BRANCHES, branches[2 * index :], strict=False):
                h = h + joined.view_as(h)
                h = add_to(adapters.get_submodule(branch), h)
        return h

    def read(self, x: Tensor) -> None:
        """At the first block's input, and at the end of each branch: keep it."""
        self.keep(x.detach())

    def replace(self, family: Family, model: nn.Module, left: Tensor) -> Tensor:
        """In front of the final norm: put what has come along in place of the backbone's own.

        Args:
            family: The model's.
            model: The model.
            left: What left its last block (B, ..., D).
        """
        entered, *branches = self.close()
        made: Tensor = self(entered, branches, partial(family.arrive, model))
        return made.view_as(left)


class E3VA(Method[Options]):
    """LoRand's adapters on a way of their own beside the frozen backbone, which no gradient enters.

    h_0 is what enters the first block. In each block the branches of the frozen backbone, a of the attention and m of
    the MLP, join it as plain data, and an adapter follows each: h <- h + a, h <- h + L_a(h), h <- h + m,
    h <- h + L_m(h), where L is LoRand's U GELU(V z + b_V) + b_U. Between stages h passes the backbone's own merging of
    patches, frozen, and at the end it takes the place of what enters the final norm. With adapters that give nothing
    it is the backbone's own stream. `size` is the number of branches of each adapter, `beta` their inner side. Count:
    LoRand's (Swin-B at 2 and 8: 1,197,312, Swin-L 1,792,896; published 1.20M and 1.79M). Not zero-start, as LoRand is
    not; not mergeable.

    A reconstruction: no code is public. The abstract has the highway, the detached activations, the inherited merging
    and the dual low-rank adapters; that adapters read the highway with the branch is our reading, and the norms that
    it trains in front of the necks of detectors have no place in front of one head. Source: Yin et al., Parameter-
    efficient is not Sufficient: Exploring Parameter, Memory, and Time Efficient Adapter Tuning for Dense Predictions,
    2023.
    """

    name = "e3va"
    summary = "low-rank adapters on a way of their own beside the frozen backbone"
    paper = "E3VA (Yin et al., 2023), reconstructed"
    sites = ("attn.residual", "mlp.residual")
    needs = ("images", "block.in", "norm.in")
    size_means = "branches"
    default_size = 2
    zero_start = False
    mergeable = False
    blockwise = False
    in_blocks = False
    in_backbone = True
    replaces = "the final norm's input"
    through_backbone = False
    final_norm = True
    option_type = Options

    def count(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> int:
        """Two of LoRand's adapters for each block."""
        return sum(
            2 * (2 * p.size * p.options.beta * both + p.size * p.options.beta**2 + both)
            for p in placements
            for both in (block.width + block.width // 2 for block in shape.blocks)
        )

    def build(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> Highway:
        """All adapters."""
        (placement,) = placements
        return Highway(shape, placement.size, placement.options.beta)

    def untouched(self, placements: Sequence[Placement], depth: int) -> int:
        """None: it reads within the blocks, which streams between them do not tell."""
        return 0

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> Iterator[Handle]:
        """Read at the branches, write in front of the final norm."""
        assert isinstance(module, Highway)
        family = family_of(model)
        blocks = family.block_sites(model)
        yield family.site(model, "images").read(module.open)
        yield replace(blocks[0].site("block.in"), raw=True).read(module.read)
        for block in blocks:
            for branch in BRANCHES:
                yield replace(block.site(f"{branch}.residual"), raw=True).read(module.read)
        yield replace(family.site(model, "norm.in"), raw=True).change(partial(module.replace, family, model))
