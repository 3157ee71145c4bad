"""Operations that are asked for before they are done, so that those of several designs can be done as one.

What is inserted ends in an operation: a product of a few hidden units, launched by itself for each design that is run
beside others. `ask` does it, as a rule; `asked_of` takes note of it instead, of a function that is marked by `asks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

F = TypeVar("F", bound=Callable[..., Any])

Join: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""Puts tensors (B, ...) of designs behind one another, (M B, ...)."""


class Joint(ABC):
    """A kind of operation of which several can be done as one; the arguments of each are those of `alone`."""

    @staticmethod
    @abstractmethod
    def alone(*args: Any) -> Tensor:
        """Do one."""

    @staticmethod
    @abstractmethod
    def kind(*args: Any) -> Hashable:
        """Those of equal kinds can be done as one."""

    @staticmethod
    @abstractmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        """Do several of one kind; what they give, behind one another.

        Args:
            calls: The arguments of each.
            join: Puts those behind one another that stand for images.
        """


@dataclass(frozen=True)
class Asked:
    """An operation that is asked for and not done.

    Args:
        joint: Its kind of operation.
        args: Its arguments.
    """

    joint: type[Joint]
    args: tuple[Any, ...]

    @property
    def kind(self) -> Hashable:
        """Those of equal kinds can be done as one."""
        return self.joint, self.joint.kind(*self.args)


_NOTES: ContextVar[bool] = ContextVar("notes", default=False)


def ask(joint: type[Joint], *args: Any) -> Tensor:
    """Do an operation, or, where it is to be noted, take note of it: for what a function that `asks` does last.

    Args:
        joint: The kind of operation.
        args: Its arguments.
    """
    if not torch.compiler.is_compiling() and _NOTES.get():
        return cast(Tensor, Asked(joint, args))
    return joint.alone(*args)


def asked_of(function: Callable[..., Any], *args: Any) -> Tensor | Asked:
    """What a function that `asks` asks for, or gives where it does something else.

    Args:
        function: The function.
        args: Its arguments.
    """
    token = _NOTES.set(True)
    try:
        found: Tensor | Asked = function(*args)
    finally:
        _NOTES.reset(token)
    return found


def together(asked: Sequence[Asked], given: Sequence[Tensor], x: Tensor) -> Tensor:
    """Do what was asked for, of one kind, at once; what it gives, (M B, ...).

    Args:
        asked: M operations.
        given: The images (B, ...) with which each was asked for.
        x: All of them behind one another (M B, ...), as they are to be read.
    """
    joint = asked[0].joint
    if len(asked) == 1:
        return joint.alone(*(x if arg is given[0] else arg for arg in asked[0].args))

    def join(tensors: Sequence[Tensor]) -> Tensor:
        same = all(one is other for one, other in zip(tensors, given, strict=True))
        return x if same else torch.cat(list(tensors))

    return joint.several([one.args for one in asked], join)


def asks(function: F) -> F:
    """Mark a function that returns what `ask` gives, and does nothing with it."""
    vars(function)[_ASKS] = True
    return function


def hands_on(function: F) -> F:
    """Mark a function that returns what its first argument, a function, gives it, or a tuple that begins with that."""
    vars(function)[_HANDS_ON] = True
    return function


def is_asking(function: Callable[..., Any]) -> bool:
    """Whether a function is one that `asks`, with or without some of its arguments.

    Args:
        function: The function.
    """
    return getattr(essence(function), _ASKS, False)


def essence(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that makes what a function returns, apart from the arguments and the object that it has.

    Args:
        function: The function.
    """
    if isinstance(function, partial):
        handed = getattr(function.func, _HANDS_ON, False) and function.args
        return essence(function.args[0] if handed else function.func)
    if isinstance(function, nn.Module):
        return essence(function.forward)
    return getattr(function, "__func__", function)


def stacked(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors as one (M, ...), with zeros behind those that are shorter along an axis.

    Args:
        tensors: M of them, of one shape but for that axis.
        axis: That one.
    """
    lengths = [tensor.shape[axis] for tensor in tensors]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(list(tensors))
    zeros = tensors[0].new_zeros(longest, *tensors[0].transpose(0, axis).shape[1:])
    turned = (part for tensor in tensors for part in (tensor.transpose(0, axis), zeros[: longest - tensor.shape[axis]]))
    together: Tensor = torch.cat(list(turned)).unflatten(0, (len(tensors), longest))
    return together.transpose(1, 1 + axis)


_ASKS = "petl_asks"
_HANDS_ON = "petl_hands_on"
