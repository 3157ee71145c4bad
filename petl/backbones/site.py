"""Sites: where in a backbone something can be read, changed or added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from petlas.petl.parts.handles import Handle

Side: TypeAlias = Literal["in", "out"]
"""In front of a module, or behind it."""

Layout: TypeAlias = Literal["NLC", "NHWC", "NCHW", "windows"]
"""How a tensor lies in memory: tokens (B, N, C), maps (B, H, W, C) and (B, C, H, W), windows (B n, w w, C)."""


@dataclass(frozen=True)
class Site:
    """A place in a backbone where something can be read, changed or added.

    What is registered here can be copied and pickled with the model where the functions can: methods of modules, and
    `functools.partial` over functions of a module's top level.

    Args:
        name: Such as `attn.in`.
        module: The module at whose input or output it is.
        side: Which of the two.
        width: Channels.
        layout: How what flows there lies in memory.
    """

    name: str
    module: nn.Module
    side: Side
    width: int
    layout: Layout = "NLC"

    @property
    def channels(self) -> int:
        """The axis of the channels."""
        return 1 if self.layout == "NCHW" else -1

    def read(self, see: Callable[[Tensor], None]) -> Handle:
        """Let `see` have what flows here, in every forward pass."""
        if self.side == "in":
            return self.module.register_forward_pre_hook(partial(_read_input, see))
        return self.module.register_forward_hook(partial(_read_output, see))

    def change(self, make: Callable[[Tensor], Tensor], first: bool = False) -> Handle:
        """Put what `make` makes of it in place of what flows here.

        Args:
            make: The function.
            first: Before what others have registered here.
        """
        if self.side == "in":
            return self.module.register_forward_pre_hook(partial(_change_input, make), prepend=first)
        return self.module.register_forward_hook(partial(_change_output, make), prepend=first)

    def around(self, make: Callable[[Tensor, Tensor], Tensor]) -> Handle:
        """Put what `make` makes of the module's input and output in place of its output."""
        return self.module.register_forward_hook(partial(_change_around, make))


def _read_input(see: Callable[[Tensor], None], module: nn.Module, args: tuple[Any, ...]) -> None:
    see(args[0])


def _read_output(see: Callable[[Tensor], None], module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    see(output)


def _change_input(make: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (make(args[0]), *args[1:])


def _change_output(
    make: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    return make(output)


def _change_around(
    make: Callable[[Tensor, Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    return make(args[0], output)
