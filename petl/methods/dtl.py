"""Disentangled transfer learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from petlas.petl.backbones import family_of
from petlas.petl.design import DesignError, Placement
from petlas.petl.parts.grid import TokenGrid
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.low_rank import LowRank
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.side import Side
from petlas.petl.shape import BackboneShape


class Chain(Side):
    """The side state s (B, P, D) of the P class, register and patch tokens, and what the later blocks get of it.

    Args:
        shape: The backbone's.
        rank: Of the update in front of each block.
        beta: Sharpness of the swish.
        conv: Depthwise convolution of the patches' part; None for none.
    """

    def __init__(self, shape: BackboneShape, rank: int, beta: float, conv: nn.Conv2d | None) -> None:
        super().__init__()
        self.grid = TokenGrid(shape)
        self.blocks = nn.ModuleList(
            LowRank(shape.width, shape.width, rank, alpha=None, dropout=0.0) for _ in range(shape.depth)
        )
        self.beta = beta
        self.conv = conv

    @property
    def own(self) -> int:
        """P: what stands behind, such as prompts, is not the backbone's."""
        rows, columns = self.grid.size
        return self.grid.first + rows * columns

    def enter(self, index: int, z: Tensor) -> None:
        """In front of a block: s <- s + B A z.

        Args:
            index: The block's.
            z: What enters it (B, N, D).
        """
        if self._kept is None:
            return
        with _kept_by_checkpoints():
            update = self.blocks[index](z[:, : self.own])
            self._kept = [*(s + update for s in self._kept)] or [update]

    def leave(self, output: Tensor) -> Tensor:
        """Behind a later block: z <- z + swish(s), for z (B, N, D)."""
        if self._kept is None:
            return output
        with _kept_by_checkpoints():
            (s,) = self._kept
            added = s * torch.sigmoid(self.beta * s)
            if self.conv is not None:
                prefix, patches = added.tensor_split((self.grid.first,), dim=1)
                patches = self.conv(patches.transpose(1, 2).unflatten(2, self.grid.size)).flatten(2).transpose(1, 2)
                added = torch.cat((prefix, patches), dim=1)
            if self.own == output.shape[1]:
                return output + added
            return torch.cat((output[:, : self.own] + added, output[:, self.own :]), dim=1)

    def end(self, x: Tensor) -> None:
        """In front of the final norm: let the state go."""
        self.close()

    def pool(self, x: Tensor) -> Tensor:
        """In front of the final norm: put the mean of the patches in every token's place, whichever the head takes."""
        mean = x[:, self.grid.first : self.own].mean(dim=1, keepdim=True)
        return mean.expand_as(x)


def _kept_by_checkpoints() -> AbstractContextManager[object]:
    """Gradient checkpointing drops what a block saves for its backward pass and recomputes it, hooks included.

    The chain runs across blocks, so that none can recompute its part: that is saved for good instead, and the hooks do
    nothing the second time. This is right where nothing follows them in the block: DTL acts behind other methods.
    Compiled graphs decide for themselves what they save.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    return saved_tensors_hooks(torch.Tensor.detach, _itself)


def _itself(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Options:
    """What a placement may set.

    Args:
        beta: Sharpness of the swish.
        pool: `head` for the backbone's own pooling, `patches` for the mean of the patches.
    """

    beta: float = 100.0
    pool: str = "head"


@dataclass(frozen=True)
class PlusOptions(Options):
    """What a placement may set.

    Args:
        beta: Sharpness of the swish.
        pool: `head` for the backbone's own pooling, `patches` for the mean of the patches.
        kernel: Side of the convolution.
    """

    kernel: int = 3


OptionsT = TypeVar("OptionsT", bound=Options)


class SideChain(Method[OptionsT]):
    """What both forms share: a chain through all blocks that the later ones read."""

    sites = ("tokens",)
    needs = ("images", "block.in", "block.out", "norm.in")
    size_means = "rank"
    default_size = 2
    zero_start = True
    mergeable = False
    blockwise = False
    final_norm = True
    in_blocks = False
    in_backbone = True

    def count(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> int:
        """A and B for each block."""
        return sum(shape.depth * 2 * shape.width * p.size for p in placements)

    def untouched(self, placements: Sequence[Placement], depth: int) -> int:
        """All up to the first that the chain is added behind."""
        return first_fed(depth) + 1

    def looks(self, placements: Sequence[Placement], depth: int) -> frozenset[int]:
        """What enters each of them, and what leaves the last."""
        return frozenset(range(first_fed(depth) + 2))

    def conv(self, shape: BackboneShape, placement: Placed[OptionsT]) -> nn.Conv2d | None:
        """What mixes the patches' part of the state; by default nothing does.

        Args:
            shape: The backbone's.
            placement: The placement.
        """
        return None

    def build(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> Chain:
        """One chain."""
        (placement,) = placements
        return Chain(shape, placement.size, placement.options.beta, self.conv(shape, placement))

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> Iterator[Handle]:
        """In front of every block, behind the later ones, and at the final norm."""
        assert isinstance(module, Chain)
        (placement,) = placements
        family = family_of(model)
        yield module.grid.follow(model)
        yield family.site(model, "images").read(module.open)
        blocks = family.block_sites(model)
        for index, block in enumerate(blocks):
            yield block.site("block.in").read(partial(module.enter, index))
        for block in blocks[first_fed(len(blocks)) :]:
            yield block.site("block.out").change(module.leave)
        yield family.site(model, "norm.in").read(module.end)
        if placement.options.pool == "patches":
            yield family.site(model, "norm.in").change(module.pool)

    def check_fit(self, shape: BackboneShape, placement: Placed[OptionsT]) -> None:
        """Beyond the common rules, refuse an unknown pooling."""
        pool = placement.options.pool
        if pool not in ("head", "patches"):
            raise DesignError(f"option pool of {self.name} must be head (the backbone's) or patches, got pool={pool!r}")


class DTL(SideChain[Options]):
    """A low-rank side chain that feeds back into the later blocks: s <- s + B_l A_l z_l, and z <- z + swish(s).

    s (B, P, D) starts at 0; z_l enters block l; swish(s) = s sigmoid(beta s) with beta = 100, near ReLU, is added to
    what leaves each block of the second half (blocks 6 to 11 of 12), so that gradients pass through the blocks behind
    those only. A_l (r, D) is Kaiming, B_l (D, r) zero, no bias; `size` is the rank r. P are the class, register and
    patch tokens: prompts of other methods neither write nor read s. Count: L * 2 D r (36,864 for ViT-B/16 at r = 2).
    Zero-start; not mergeable, because of the swish.

    The authors' code also has the head read the mean of the patch tokens, through the final norm, in place of the
    class token. That is no part of what is inserted, gives up the zero start, and makes comparisons with other methods
    uneven; so the backbone's own pooling stays by default, and `pool: patches` gives the authors'. In a backbone of
    fewer than 4 blocks the last two are added to, as what the last one gets at its patches no longer reaches the class
    token. Source: Fu et al., DTL: Disentangled Transfer Learning, 2024.
    """

    name = "dtl"
    summary = "a low-rank side chain that feeds the later blocks"
    paper = "DTL (Fu et al., 2024)"
    option_type = Options


class DTLPlus(SideChain[PlusOptions]):
    """DTL whose patches exchange what they get: swish(s) passes one depthwise convolution on the patch grid.

    The convolution of k x k (option `kernel`, 3), without bias and with PyTorch's default start, is shared by all
    blocks; the class and register tokens bypass it. Count: DTL's and k^2 D (43,776 for ViT-B/16 at r = 2; 56,064 at
    k = 5). Zero-start, as s = 0; not mergeable. Source: Fu et al., DTL: Disentangled Transfer Learning, 2024.
    """

    name = "dtl_plus"
    summary = "a low-rank side chain with a convolution that feeds the later blocks"
    paper = "DTL+ (Fu et al., 2024)"
    option_type = PlusOptions

    def count(self, shape: BackboneShape, placements: Sequence[Placed[PlusOptions]]) -> int:
        """The chain and the convolution."""
        return super().count(shape, placements) + sum(shape.width * p.options.kernel**2 for p in placements)

    def conv(self, shape: BackboneShape, placement: Placed[PlusOptions]) -> nn.Conv2d:
        """One kernel for each channel."""
        kernel = placement.options.kernel
        return nn.Conv2d(shape.width, shape.width, kernel, padding="same", groups=shape.width, bias=False)

    def check_fit(self, shape: BackboneShape, placement: Placed[PlusOptions]) -> None:
        """Beyond the common rules, refuse a kernel without a centre."""
        super().check_fit(shape, placement)
        kernel = placement.options.kernel
        if kernel not in (1, 3, 5, 7):
            raise DesignError(f"option kernel of {self.name} must be 1, 3, 5 or 7, got kernel={kernel!r}")


def first_fed(depth: int) -> int:
    """The first block that the chain is added behind."""
    return max(0, min(depth // 2, depth - 2))
