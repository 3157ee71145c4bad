"""What a block with a design computes, apart from the numbers in its tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import hooks_of

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)
_SIZES = ("size", "active")
_OWN = frozenset(vars(nn.Module()))
"""What every module has."""


class UnlikeError(Exception):
    """A block that cannot be told apart from others, with the reason."""


class Kind:
    """What a block computes, as a key that is equal where only tensors differ, and the sizes of what is inserted.

    The key holds the block's modules, what is hooked on them, and the modules of the design that those use; of tensors
    their axes, types, and whether they are trained. What no forward pass reads, a module names as `unread`.

    Args:
        block: A block of a backbone with a design.

    Raises:
        UnlikeError: Where it uses anything that a key cannot hold.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block, self.forward = block, block.forward
        self._seen: dict[int, int] = {}
        self.roots: list[nn.Module] = [block]
        """The block, and the modules that are hooked on it."""
        self.elastic: list[Elastic] = []
        key, reached = [self._module(block)], 1
        while reached < len(self.roots):  # what is hooked may hook further modules
            key.append(self._module(self.roots[reached]))
            reached += 1
        self.key: Hashable = tuple(key)
        self.sizes: tuple[tuple[int, int], ...] = tuple((module.size, module.active) for module in self.elastic)

    @property
    def changed(self) -> bool:
        """Whether a call of the block has left anything in its modules."""
        try:
            return Kind(self.block).key != self.key
        except UnlikeError:
            return True

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers, by names that are the same for blocks of one kind."""
        return {name: tensor for name, (_, _, tensor) in self._places.items()}

    @cached_property
    def _places(self) -> dict[str, tuple[dict[str, Any], str, Tensor]]:
        """Of each of `tensors` what its module has of its own, and by which name the module knows it."""
        return {
            ".".join(filter(None, (f"roots.{i}", path, name))): (vars(module), name, tensor)
            for i, root in enumerate(self.roots)
            for path, module in root.named_modules(remove_duplicate=False)
            for name, tensor in _tensors(module, recurse=False)
        }

    @property
    def given(self) -> dict[str, Tensor]:
        """`tensors`, or what stands in for them now: see `parts.casts`. Those that differ in size come as views: torch
        makes a new graph for each size of a parameter.
        """
        now = {name: own.get(place, tensor) for name, (own, place, tensor) in self._places.items()}
        return {name: t if name.startswith("roots.0.") else t.view_as(t) for name, t in now.items()}

    def copy(self) -> tuple[list[nn.Module], list[Elastic]]:
        """The modules once more, without values, and those of them that have a size."""
        stand_in = vars(self.block).get("forward")
        memo: dict[int, Any] = {id(stand_in): None}
        for tensor in self.tensors.values():
            empty = tensor.detach().to("meta")
            trained = tensor.requires_grad
            memo[id(tensor)] = nn.Parameter(empty, trained) if isinstance(tensor, nn.Parameter) else empty
        roots, elastic = copy.deepcopy((self.roots, self.elastic), memo)
        vars(roots[0]).pop("forward", None)
        for module in (module for root in roots for module in root.modules()):
            for name, _ in _tensors(module, recurse=False):
                vars(module).pop(name, None)  # what stood in for it
        return roots, elastic

    def _module(self, module: nn.Module) -> Hashable:
        if id(module) in self._seen:
            return ("module", self._seen[id(module)])
        self._seen[id(module)] = len(self._seen)
        if isinstance(module, Elastic):
            self.elastic.append(module)
        hidden = set(getattr(module, "unread", ())) | (set(_SIZES) if isinstance(module, Elastic) else set())
        # The block's own hooks run around it, as does what stands for its `forward` while it is compiled.
        hooks = () if module is self.block else (hooks_of(module, "in"), hooks_of(module, "out"))
        hidden |= {"forward"} if module is self.block else set()
        hidden |= {name for name, _ in _tensors(module, recurse=False)}  # another one may stand in: see `parts.casts`
        own = {name: value for name, value in vars(module).items() if name not in _OWN and not name.startswith("petl_")}
        return (
            type(module),
            module.training,
            tuple((name, t.dtype, t.ndim, t.requires_grad) for name, t in _tensors(module, recurse=False)),
            tuple((name, self._value(value)) for name, value in sorted(own.items()) if name not in hidden),
            self._value(hooks),
            tuple((name, self._module(child)) for name, child in module.named_children()),
        )

    def _value(self, value: Any) -> Hashable:
        if isinstance(value, nn.Module):
            if id(value) in self._seen:
                return ("module", self._seen[id(value)])
            if value not in self.roots:
                self.roots.append(value)
            return ("root", self.roots.index(value))
        if isinstance(value, Tensor):
            raise UnlikeError("it uses a tensor that is no parameter or buffer")
        if isinstance(value, _CONSTANTS):
            return (type(value).__name__, value)
        if isinstance(value, partial):
            return ("partial", self._value(value.func), self._value(value.args), self._value(value.keywords))
        if isinstance(value, MethodType):
            return ("method", self._value(value.__func__), self._value(value.__self__))
        return self._other(value)

    def _other(self, value: Any) -> Hashable:
        if isinstance(value, FunctionType) and value.__closure__:
            raise UnlikeError(f"it uses a function with values of its own, {value.__qualname__}")
        if isinstance(value, FunctionType | BuiltinFunctionType | torch.jit.ScriptFunction):
            return ("function", value)
        if isinstance(value, tuple | list):
            return (type(value).__name__, *map(self._value, value))
        if isinstance(value, dict):
            return ("dict", *((name, self._value(own)) for name, own in value.items()))
        if isinstance(value, slice):
            return ("slice", value.start, value.stop, value.step)
        if is_dataclass(value) and not isinstance(value, type):
            return (type(value), *(self._value(getattr(value, field.name)) for field in fields(value)))
        raise UnlikeError(f"it uses a {type(value).__name__}")


def _tensors(module: nn.Module, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    kinds: tuple[Callable[..., Any], ...] = (module.named_parameters, module.named_buffers)
    for named in kinds:
        yield from named(recurse=recurse, remove_duplicate=False)
