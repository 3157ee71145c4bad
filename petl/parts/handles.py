"""What can be attached to a backbone and taken off again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import nn


class Handle(Protocol):
    """Something attached to a backbone that can be taken off again, such as a hook."""

    def remove(self) -> None:
        """Take it off."""


class ForwardOverride:
    """Another function in place of a module's own `forward`, or of another of its methods.

    The hooks of the module see nothing of it: they run around it as they run around its own.

    Args:
        module: The module.
        function: What is called instead.
        name: The method that it stands in for.
    """

    def __init__(self, module: nn.Module, function: Callable[..., Any], name: str = "forward") -> None:
        self._module, self._name = module, name
        vars(module)[name] = function

    def remove(self) -> None:
        """Give the module its own back."""
        del vars(self._module)[self._name]


class Counted:
    """A hook that its module counts while it is there: torch does not say which hooks a module has.

    Args:
        module: The module.
        hook: The hook.
    """

    def __init__(self, module: nn.Module, hook: Handle) -> None:
        self._module, self._hook = module, hook
        vars(module)[_COUNT] = vars(module).get(_COUNT, 0) + 1

    def remove(self) -> None:
        """Take the hook off."""
        self._hook.remove()
        left = vars(self._module).pop(_COUNT) - 1
        if left:
            vars(self._module)[_COUNT] = left


class Inside(ForwardOverride):
    """What acts on a module's output, computed together with it: `bare_forward` knows the module without."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__(module, function)
        vars(module)[_INSIDE] = True

    def remove(self) -> None:
        """Give the module its own back."""
        super().remove()
        del vars(self._module)[_INSIDE]


def bare_forward(module: nn.Module) -> Callable[..., Any]:
    """What a module computes without what acts on its output, be that hooked on it or `Inside`.

    Args:
        module: The module.
    """
    return partial(type(module).forward, module) if _INSIDE in vars(module) else module.forward


def untouched(module: nn.Module) -> bool:
    """Whether a module's `forward` is its class's own, and no hook is counted.

    Args:
        module: The module.
    """
    return "forward" not in vars(module) and _COUNT not in vars(module)


_COUNT = "petl_hooks"
_INSIDE = "petl_inside"
