"""Sites: where in a backbone something can be read, changed or added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from petlas.petl.parts.handles import Handle, Hook, Inside, Side, untouched
from petlas.petl.parts.joint import hands_on

Layout: TypeAlias = Literal["NLC", "NHWC", "NCHW", "windows"]
"""How a tensor lies in memory: tokens (B, N, C), maps (B, H, W, C) and (B, C, H, W), windows (B n, w w, C)."""


@dataclass(frozen=True)
class Site:
    """A place in a backbone where something can be read, changed or added.

    Whatever the layout, what is registered here sees and gives tokens (B, N, C), maps row by row; windows are tokens of
    B n images. So a method is written once. It can be copied and pickled with the model where the functions can:
    methods of modules, and `functools.partial` over functions of a module's top level.

    Args:
        name: Such as `attn.in`.
        module: The module at whose input or output it is.
        side: Which of the two.
        width: Channels.
        layout: How what flows there lies in memory.
        raw: Whether it is handed over as it lies, with the channels on the axis `channels`.
    """

    name: str
    module: nn.Module
    side: Side
    width: int
    layout: Layout = "NLC"
    raw: bool = False

    @property
    def channels(self) -> int:
        """The axis of the channels of what is handed over."""
        return 1 if self.raw and self.layout == "NCHW" else -1

    @property
    def _maps(self) -> Layout | None:
        """The layout of maps that are to be handed over as tokens."""
        return None if self.raw or self.layout in ("NLC", "windows") else self.layout

    def read(self, see: Callable[[Tensor], None]) -> Handle:
        """Let `see` have what flows here, in every forward pass."""
        see = partial(_see_tokens, see, self._maps) if self._maps else see
        return Hook(self.module, self.side, partial(_READ[self.side], see))

    def change(self, make: Callable[[Tensor], Tensor], first: bool = False) -> Handle:
        """Put what `make` makes of it in place of what flows here.

        Args:
            make: The function.
            first: Before what others have registered here.
        """
        make = partial(_make_tokens, make, self._maps) if self._maps else make
        return Hook(self.module, self.side, partial(_CHANGE[self.side], make), first)

    def around(self, make: Callable[[Tensor, Tensor], Tensor]) -> Handle:
        """Put what `make` makes of the module's input and output in place of its output."""
        make = partial(_make_tokens_around, make, self._maps) if self._maps else make
        return Hook(self.module, "out", partial(_change_around, make))

    @property
    def untouched(self) -> bool:
        """Whether nothing has been attached to the module, so that what acts on it can be a part of it."""
        return untouched(self.module)

    def replace(self, make: Callable[[Tensor], Tensor]) -> Handle:
        """Put what `make` makes of the module's input, as it lies, in place of what the module computes.

        What others attach later acts on its output, as it would if this had been attached by `around`. So that the
        same holds for what others have attached before, the site must be `untouched`.
        """
        return Inside(self.module, make)


def to_tokens(x: Tensor, layout: Layout) -> Tensor:
    """Maps (B, H, W, C) or (B, C, H, W) to tokens (B, H W, C), row by row.

    Args:
        x: The maps.
        layout: Theirs.
    """
    return x.flatten(2).transpose(1, 2) if layout == "NCHW" else x.flatten(1, 2)


def to_maps(tokens: Tensor, layout: Layout, like: Tensor) -> Tensor:
    """Tokens (B, H W, C) to maps, row by row.

    Those (B, C, H, W) are copies that lie as they lay: convolutions round by how a map lies, and ResNets add in place.

    Args:
        tokens: The tokens.
        layout: Of the maps.
        like: Maps of the same rows and columns.
    """
    first, axis, sides = (
        (tokens.transpose(1, 2), 2, like.shape[2:]) if layout == "NCHW" else (tokens, 1, like.shape[1:3])
    )
    maps: Tensor = first.unflatten(axis, sides)
    return maps.clone(memory_format=torch.contiguous_format) if layout == "NCHW" and like.is_contiguous() else maps


def _see_tokens(see: Callable[[Tensor], None], layout: Layout, x: Tensor) -> None:
    see(to_tokens(x, layout))


def _make_tokens(make: Callable[[Tensor], Tensor], layout: Layout, x: Tensor) -> Tensor:
    return to_maps(make(to_tokens(x, layout)), layout, x)


def _make_tokens_around(make: Callable[[Tensor, Tensor], Tensor], layout: Layout, x: Tensor, output: Tensor) -> Tensor:
    return to_maps(make(to_tokens(x, layout), to_tokens(output, layout)), layout, output)


def _read_input(see: Callable[[Tensor], None], module: nn.Module, args: tuple[Any, ...]) -> None:
    see(args[0])


def _read_output(see: Callable[[Tensor], None], module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    see(output)


@hands_on
def _change_input(make: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (make(args[0]), *args[1:])


@hands_on
def _change_output(
    make: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    return make(output)


@hands_on
def _change_around(
    make: Callable[[Tensor, Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    return make(args[0], output)


_READ: dict[Side, Callable[..., Any]] = {"in": _read_input, "out": _read_output}
_CHANGE: dict[Side, Callable[..., Any]] = {"in": _change_input, "out": _change_output}
