"""Visual prompt tuning."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import Elastic, Handle, Method, Tree
from petlas.petl.shape import BackboneShape


class Prompts(Elastic):
    """p learned tokens (p, D), uniform in +-sqrt(6 / (3 P^2 + D)) for patches of P pixels."""

    axes = {"tokens": 0}

    def __init__(self, count: int, shape: BackboneShape) -> None:
        super().__init__(count)
        bound = math.sqrt(6.0 / (3 * shape.patch[0] * shape.patch[1] + shape.width))
        self.tokens = nn.Parameter(torch.empty(count, shape.width).uniform_(-bound, bound))


class VPT(Method):
    """Learned tokens that join the sequence in front of a block and stay until other prompts replace them.

    Tokens at every block are VPT-Deep; tokens at block 0 alone, which then flow through all blocks, are VPT-Shallow.
    They stand behind the patch tokens (without position embedding the place makes no difference to attention) and
    leave before the final norm. What a block makes of tokens that leave right behind it is read by nobody: they leave
    with its attention already, which computes the same for less. `size` is the number of tokens p. Count: p D per block
    (VPT-Deep at p = 50: 460,800 for ViT-B/16; VPT-Shallow at p = 100: 76,800). By definition not zero-start; not
    mergeable. Source: Jia et al., Visual Prompt Tuning, 2022.
    """

    name = "vpt"
    summary = "learned tokens in front of a block"
    paper = "VPT (Jia et al., 2022)"
    sites = ("tokens",)
    size_means = "tokens"
    default_size = 10
    zero_start = False
    mergeable = False
    known_strong = True

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """p tokens of D channels for each placement."""
        return sum(shape.width * (p.size or 0) for p in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Tree:
        """The tokens under `blocks.N`."""
        tree = Tree()
        for placement in placements:
            assert placement.size is not None
            tree.add(f"blocks.{placement.block}", Prompts(placement.size, shape))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Around the attention of blocks whose tokens leave there; else in front of blocks, and of the final norm."""
        blocks = model.get_submodule("blocks")
        ends = {placement.block for placement in placements} | {len(list(blocks.children()))}
        before: Prompts | None = None  # those that flow in the stream
        for placement in placements:
            assert placement.block is not None
            block, prompts = model.get_submodule(placement.path), module.get_submodule(placement.path)
            assert isinstance(prompts, Prompts)
            stay = None if placement.block + 1 in ends else prompts
            if before or stay:
                yield block.register_forward_pre_hook(partial(exchange, before, stay))
            if not stay:
                # First in and last out, so that what others do within the branch sees the same tokens throughout.
                norm, drop_path = block.get_submodule("norm1"), block.get_submodule("drop_path1")
                yield norm.register_forward_pre_hook(partial(exchange, None, prompts), prepend=True)
                yield drop_path.register_forward_hook(partial(_leave, prompts))
            before = stay
        if before:
            yield model.get_submodule("norm").register_forward_pre_hook(partial(exchange, before, None))

    def enters(self, placements: Sequence[Placement], block: int) -> Hashable:
        """Beyond the placements before a block, whether it takes away what the last of them put into the stream."""
        earlier = super().enters(placements, block)
        places = {placement.block for placement in placements}
        return (earlier, "left") if {block - 1, block} <= places else earlier


def _leave(prompts: Prompts, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    """Hook: take the last tokens away from what comes out of a layer."""
    return output[:, : output.shape[1] - prompts.active]


def exchange(old: Prompts | None, new: Prompts | None, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Hook in front of a layer: take the last tokens away, and put others in their place."""
    (x,) = args
    if old is not None:
        x = x[:, : x.shape[1] - old.active]
    if new is not None:
        tokens = new.part("tokens").to(x.dtype)
        x = torch.cat((x, tokens.expand(len(x), -1, -1)), dim=1)
    return (x,)
