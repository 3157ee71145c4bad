"""Reaching the residual stream between the attention and the MLP of a block, where no layer stands."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from petlas.petl.methods.base import Handle


class Between(nn.Module):
    """An adapter with a skip connection on the stream between attention and MLP: x <- x + A(x).

    The attention branch o is the last thing that joins that stream, so A(x + o) is added to it. This takes a pair of
    hooks: one keeps the stream x where it enters the block, the other uses it and lets it go.
    """

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter
        self._entering: Tensor | None = None

    def enter(self, layer: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of norm1: keep the stream (B, N, D)."""
        self._entering = args[0]

    def leave(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Hook of drop_path1: add the adapter's output to the branch."""
        entering, self._entering = self._entering, None
        assert entering is not None
        added: Tensor = output + self.adapter(entering + output)
        return added

    def attach(self, block: nn.Module) -> Iterator[Handle]:
        """Both hooks."""
        yield block.get_submodule("norm1").register_forward_pre_hook(self.enter)
        yield block.get_submodule("drop_path1").register_forward_hook(self.leave)
