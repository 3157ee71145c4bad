"""Visual prompt tuning."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.design import Placement
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, BlockShape


class Prompts(Elastic):
    """p learned tokens (p, D), uniform in +-sqrt(6 / (3 P^2 + D)) for patches of P pixels."""

    axes = {"tokens": 0}
    undecayed = ("tokens",)

    def __init__(self, count: int, shape: BackboneShape | BlockShape) -> None:
        super().__init__(count)
        bound = math.sqrt(6.0 / (3 * shape.patch[0] * shape.patch[1] + shape.width))
        self.tokens = nn.Parameter(torch.empty(count, shape.width).uniform_(-bound, bound))

    def forward(self) -> Tensor:
        """The tokens in use (p, D)."""
        return self.part("tokens")


class VPT(Method[NoOptions]):
    """Learned tokens that join the sequence in front of a block and stay until other prompts replace them.

    Tokens at every block are VPT-Deep; tokens at block 0 alone, which then flow through all blocks, are VPT-Shallow.
    They stand behind the patch tokens (without position embedding the place makes no difference to attention) and
    leave before the final norm. What a block makes of tokens that leave right behind it is read by nobody: they leave
    with its attention already, which computes the same for less. `size` is the number of tokens p. Count: p D per block
    (VPT-Deep at p = 50: 460,800 for ViT-B/16; VPT-Shallow at p = 100: 76,800). By definition not zero-start; not
    mergeable. Source: Jia et al., Visual Prompt Tuning, 2022.

    Where no tokens can join the stream, those of a block, in the block's width, join its attention alone, in each
    window on Swin, without a position (p = 10: 120,320 for Swin-B): what the paper's deep prompts do, too, as the next
    block replaces them. Its code gives images the prompts of others in their batch, and pools prompts; this does
    neither. They pass the norm in front of that attention as it is, without what other methods hook on it.
    """

    name = "vpt"
    summary = "learned tokens in front of a block"
    paper = "VPT (Jia et al., 2022)"
    sites = ("tokens", "attn.tokens")
    needs = ("block.in", "attn.stream", "attn.residual", "norm.in")
    any_site = True
    size_means = "tokens"
    default_size = 10
    zero_start = False
    mergeable = False
    known_strong = True
    option_type = NoOptions

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """p tokens of D channels for each placement."""
        return sum(shape.blocks[p.block].width * p.size for p in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> Tree:
        """The tokens under `blocks.N`."""
        tree = Tree()
        for placement in placements:
            tree.add(placement.path, Prompts(placement.size, shape.blocks[placement.block]))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """Around the attention of blocks whose tokens leave there; else in front of blocks, and of the final norm."""
        family = family_of(model)
        blocks = family.block_sites(model)
        if "tokens" not in family.sites:
            for placement in placements:
                prompts = module.get_submodule(placement.path)
                yield from family.more_tokens(blocks[placement.block], prompts)
            return
        ends = {placement.block for placement in placements} | {len(blocks)}
        before: Prompts | None = None  # those that flow in the stream
        for placement in placements:
            block, prompts = blocks[placement.block], module.get_submodule(placement.path)
            assert isinstance(prompts, Prompts)
            stay = None if placement.block + 1 in ends else prompts
            if before or stay:
                yield block.site("block.in").change(partial(exchange, before, stay))
            if not stay:
                # First in and last out, so that what others do within the branch sees the same tokens throughout.
                yield block.site("attn.stream").change(partial(exchange, None, prompts), first=True)
                yield block.site("attn.residual").change(partial(exchange, prompts, None))
            before = stay
        if before:
            yield family.site(model, "norm.in").change(partial(exchange, before, None))

    def enters(self, placements: Sequence[Placement], block: int) -> Hashable:
        """Beyond the placements before a block, whether it takes away what the last of them put into the stream."""
        earlier = super().enters(placements, block)
        places = {placement.block for placement in placements}
        return (earlier, "left") if {block - 1, block} <= places else earlier

    def spread(self, placements: Sequence[Placement], depth: int) -> int:
        """Tokens flow on to the next placement."""
        starts = sorted((placement.block or 0, placement.size or 0) for placement in placements)
        ends = [start for start, _ in starts[1:]] + [depth]
        return sum(size * (end - start) for (start, size), end in zip(starts, ends, strict=True))

    def strays(self, placements: Sequence[Placement], depth: int) -> bool:
        """Where the next block has no placement and is not the end, the tokens flow on."""
        places = {placement.block for placement in placements}
        return not all(block + 1 in places | {depth} for block in places if block is not None)


def exchange(old: Prompts | None, new: Prompts | None, x: Tensor) -> Tensor:
    """Take the last tokens of a sequence away, and put others in their place.

    Args:
        old: Those to take away.
        new: Those to put there.
        x: The sequence (B, N, D).
    """
    if old is not None:
        x = x[:, : x.shape[1] - len(old.part("tokens"))]
    if new is not None:
        tokens = new.part("tokens").to(x.dtype)
        x = torch.cat((x, tokens.expand(x.shape[0], -1, -1)), dim=1)
    return x
