"""Disentangled transfer learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import Handle, Method
from petlas.petl.methods.grid import TokenGrid
from petlas.petl.methods.low_rank import LowRank
from petlas.petl.methods.side import Side
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

    def enter(self, index: int, block: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of a block: s <- s + B A z."""
        if self._kept is None:
            return
        with _kept_by_checkpoints():
            update = self.blocks[index](args[0][:, : self.own])
            self._kept = [*(s + update for s in self._kept)] or [update]

    def leave(self, block: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        """Hook of a later block: z <- z + swish(s)."""
        if self._kept is None:
            return None
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

    def end(self, norm: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of the final norm: let the state go."""
        self.close()

    def pool(self, norm: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """Pre-hook of the final norm: put the mean of the patches in every token's place, whichever the head takes."""
        (x,) = args
        mean = x[:, self.grid.first : self.own].mean(dim=1, keepdim=True)
        return (mean.expand_as(x),)


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


class DTL(Method):
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
    sites = ("tokens",)
    size_means = "rank"
    default_size = 2
    zero_start = True
    mergeable = False
    blockwise = False
    in_blocks = False
    in_backbone = True
    options = {"beta": 100.0, "pool": "head"}

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """A and B for each block."""
        return sum(shape.depth * 2 * shape.width * (p.size or 0) for p in placements)

    def conv(self, shape: BackboneShape, placement: Placement) -> nn.Conv2d | None:
        """What mixes the patches' part of the state."""
        return None

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Chain:
        """One chain."""
        (placement,) = placements
        assert placement.size is not None
        return Chain(shape, placement.size, float(self.option(placement, "beta") or 0.0), self.conv(shape, placement))

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """In front of every block, behind the later ones, and at the final norm."""
        assert isinstance(module, Chain)
        (placement,) = placements
        embed, norm = model.get_submodule("patch_embed"), model.get_submodule("norm")
        yield embed.register_forward_pre_hook(module.grid.measure)
        yield embed.register_forward_pre_hook(module.open)
        blocks = list(model.get_submodule("blocks").children())
        for index, block in enumerate(blocks):
            yield block.register_forward_pre_hook(partial(module.enter, index))
        for block in blocks[first_fed(len(blocks)) :]:
            yield block.register_forward_hook(module.leave)
        yield norm.register_forward_pre_hook(module.end)
        if self.option(placement, "pool") == "patches":
            yield norm.register_forward_pre_hook(module.pool)

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse an unknown pooling."""
        super().check(shape, placement)
        pool = self.option(placement, "pool")
        if pool not in ("head", "patches"):
            raise DesignError(f"option pool of {self.name} must be head (the backbone's) or patches, got pool={pool!r}")


class DTLPlus(DTL):
    """DTL whose patches exchange what they get: swish(s) passes one depthwise convolution on the patch grid.

    The convolution of k x k (option `kernel`, 3), without bias and with PyTorch's default start, is shared by all
    blocks; the class and register tokens bypass it. Count: DTL's and k^2 D (43,776 for ViT-B/16 at r = 2; 56,064 at
    k = 5). Zero-start, as s = 0; not mergeable. Source: Fu et al., DTL: Disentangled Transfer Learning, 2024.
    """

    name = "dtl_plus"
    summary = "a low-rank side chain with a convolution that feeds the later blocks"
    paper = "DTL+ (Fu et al., 2024)"
    options = DTL.options | {"kernel": 3}

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """The chain and the convolution."""
        return super().count(shape, placements) + sum(shape.width * self._kernel(p) ** 2 for p in placements)

    def conv(self, shape: BackboneShape, placement: Placement) -> nn.Conv2d:
        """One kernel for each channel."""
        return nn.Conv2d(
            shape.width, shape.width, self._kernel(placement), padding="same", groups=shape.width, bias=False
        )

    def _kernel(self, placement: Placement) -> int:
        return int(self.option(placement, "kernel") or 0)

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse a kernel without a centre."""
        super().check(shape, placement)
        kernel = self.option(placement, "kernel")
        if kernel not in (1, 3, 5, 7):
            raise DesignError(f"option kernel of {self.name} must be 1, 3, 5 or 7, got kernel={kernel!r}")


def first_fed(depth: int) -> int:
    """The first block that the chain is added behind."""
    return max(0, min(depth // 2, depth - 2))
