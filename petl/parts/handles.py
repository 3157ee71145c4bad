"""What can be attached to a backbone and taken off again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

from torch import nn

Side: TypeAlias = Literal["in", "out"]
"""In front of a module, or behind it."""


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


class Hook:
    """A hook that its module knows while it is there: torch does not say which hooks a module has.

    Args:
        module: The module.
        side: Whether it acts in front of the module or behind it.
        function: As torch takes it: of the module and its arguments, and behind it of its output as well.
        first: Before the others on that side.
    """

    def __init__(self, module: nn.Module, side: Side, function: Callable[..., Any], first: bool = False) -> None:
        register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
        self._handle = register(function, prepend=first)
        self._module, self.side, self.function = module, side, function
        known = vars(module).setdefault(_HOOKS, [])
        known.insert(0 if first else len(known), self)

    def remove(self) -> None:
        """Take the hook off."""
        self._handle.remove()
        known = vars(self._module)[_HOOKS]
        known.remove(self)
        if not known:
            del vars(self._module)[_HOOKS]


def hooks_of(module: nn.Module, side: Side) -> tuple[Callable[..., Any], ...]:
    """The functions that are hooked on one side of a module, in the order in which they act.

    Args:
        module: The module.
        side: Of the two.
    """
    return tuple(hook.function for hook in vars(module).get(_HOOKS, ()) if hook.side == side)


def replaced(module: nn.Module) -> bool:
    """Whether a module computes another function than its class's.

    Args:
        module: The module.
    """
    return "forward" in vars(module)


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
    """Whether a module's `forward` is its class's own, and no hook is known of.

    Args:
        module: The module.
    """
    return not replaced(module) and _HOOKS not in vars(module)


_HOOKS = "petl_hooks"
_INSIDE = "petl_inside"
