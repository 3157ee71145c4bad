"""Reaching the residual stream between the attention and the MLP of a block, where no layer stands."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.handles import Handle

SITES = ("attn.stream", "attn.residual")
"""Where `Between` reads and writes."""


class Carry(nn.Module):
    """A module that keeps a tensor at one site until another site of the same pass takes it."""

    def __init__(self) -> None:
        super().__init__()
        self._carried: Tensor | None = None

    def carry(self, x: Tensor) -> None:
        """Keep a tensor."""
        self._carried = x

    def carried(self) -> Tensor:
        """The tensor, given away.

        Raises:
            RuntimeError: When nothing was kept in this pass.
        """
        x, self._carried = self._carried, None
        if x is None:
            raise RuntimeError("a site was reached out of turn: run the model as a whole")
        return x


class Between(Carry):
    """An adapter with a skip connection on the stream between attention and MLP: x <- x + A(x).

    The attention branch o is the last thing that joins that stream, so A(x + o) is added to it. This takes a pair of
    sites: at one the stream x is kept where it enters the branch, at the other it is used and let go.
    """

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter

    def leave(self, branch: Tensor) -> Tensor:
        """Add the adapter's output to the branch (B, N, D)."""
        entering = self.carried()
        added: Tensor = branch + self.adapter(entering + branch)
        return added

    def attach(self, block: BlockSites) -> Iterator[Handle]:
        """Both sites."""
        yield block.site("attn.stream").read(self.carry)
        yield block.site("attn.residual").change(self.leave)
