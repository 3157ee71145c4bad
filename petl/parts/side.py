"""What side networks share: they follow one pass of a backbone, from the images to the final norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.handles import Handle

SITES = ("images", "block.in", "block.out")
"""Where side networks read."""


class Side(nn.Module):
    """A side network that keeps tensors from one pass of the backbone until it has used them.

    Gradient checkpointing runs the blocks a second time, hooks included, during the backward pass. The side network is
    closed by then, and whatever its hooks would keep is let go.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] | None = None

    def open(self, images: Tensor) -> None:
        """At the images: a pass begins."""
        self._kept = []

    @property
    def opened(self) -> bool:
        """Whether a pass has begun and not ended."""
        return self._kept is not None

    def keep(self, z: Tensor) -> None:
        """Keep a tensor of this pass."""
        if self._kept is not None:
            self._kept.append(z)

    def close(self) -> list[Tensor]:
        """Everything that was kept, given away: the pass ends.

        Raises:
            RuntimeError: When no pass had begun.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError("a side network was asked out of turn: run the model as a whole")
        return kept

    def forget(self) -> None:
        """Let go of what a pass that was not finished has left."""
        self._kept = None


class DetachedSide(Side):
    """A side network that reads the stream as plain data: no gradient passes through the blocks.

    Its `forward` takes z_0, the tokens (B, N, D) that enter the first block, and z_1 .. z_L, those that leave each
    block, all at once behind the last block.
    """

    def read(self, z: Tensor) -> None:
        """At the first block's input and at each block's output: keep z_i."""
        self.keep(z.detach())

    def attach(self, model: nn.Module) -> Iterator[Handle]:
        """Connect it to the sites where it reads."""
        family = family_of(model)
        yield family.site(model, "images").read(self.open)
        blocks = family.block_sites(model)
        yield blocks[0].site("block.in").read(self.read)
        for block in blocks:
            yield block.site("block.out").read(self.read)


def attend(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
    """Fused attention of heads of `head` channels: q (B, N, C), k and v (B, M, C) to (B, N, C).

    The last head may be narrower; its missing channels count as zeros, which change neither its weights nor its other
    outputs. So the first channels of a wider attention are a narrower attention.

    Args:
        q: Queries (B, N, C).
        k: Keys (B, M, C).
        v: Values (B, M, C).
        head: Channels of a head.
    """
    channels = q.shape[-1]
    missing = -channels % head
    q, k, v = (F.pad(t, (0, missing)).unflatten(-1, (-1, head)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)[..., :channels]


def trunc_normal(*shape: int) -> nn.Parameter:
    """A weight as vision transformers draw theirs: normal with a standard deviation of 0.02, cut off."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))
