"""What side networks share: they follow one pass of a backbone, from the patch embedding to the final norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.methods.base import Handle


class Side(nn.Module):
    """A side network that keeps tensors from one pass of the backbone until it has used them.

    Gradient checkpointing runs the blocks a second time, hooks included, during the backward pass. The side network is
    closed by then, and whatever its hooks would keep is let go.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] | None = None

    def open(self, patch_embed: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of the patch embedding: a pass begins."""
        self._kept = []

    def keep(self, z: Tensor) -> None:
        """Keep a tensor of this pass."""
        if self._kept is not None:
            self._kept.append(z)

    def close(self) -> list[Tensor]:
        """Everything that was kept, given away: the pass ends."""
        kept, self._kept = self._kept, None
        assert kept is not None
        return kept


class DetachedSide(Side):
    """A side network that reads the stream as plain data: no gradient passes through the blocks.

    Its `forward` takes z_0, the tokens (B, N, D) that enter the first block, and z_1 .. z_L, those that leave each
    block, all at once behind the last block.
    """

    def enter(self, block: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of the first block: read z_0."""
        self.keep(args[0].detach())

    def leave(self, block: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        """Hook of each block: read z_i."""
        self.keep(output.detach())

    def attach(self, model: nn.Module) -> Iterator[Handle]:
        """The hooks that read."""
        yield model.get_submodule("patch_embed").register_forward_pre_hook(self.open)
        blocks = list(model.get_submodule("blocks").children())
        yield blocks[0].register_forward_pre_hook(self.enter)
        for block in blocks:
            yield block.register_forward_hook(self.leave)


def attend(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
    """Fused attention of heads of `head` channels: q (B, N, C), k and v (B, M, C) to (B, N, C).

    The last head may be narrower; its missing channels count as zeros, which change neither its weights nor its other
    outputs. So the first channels of a wider attention are a narrower attention.
    """
    channels = q.shape[-1]
    missing = -channels % head
    q, k, v = (F.pad(t, (0, missing)).unflatten(-1, (-1, head)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)[..., :channels]


def trunc_normal(*shape: int) -> nn.Parameter:
    """A weight as vision transformers draw theirs: normal with a standard deviation of 0.02, cut off."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))
