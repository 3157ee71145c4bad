"""How one pass of a backbone serves several designs: each module sends images through what their design has there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.handles import hooks_of, replaced
from petlas.petl.prefix import varies

Rows: TypeAlias = tuple[tuple[str, int], ...]
"""Which designs the images of a batch are of, in their order, and how many each has."""

Shapes: TypeAlias = dict[str, tuple[Any, Any]]
"""What a module takes and gives of one image, by its path; None for what does not matter."""


class Flow:
    """Whose images flow through the backbone now."""

    def __init__(self) -> None:
        self.rows: Rows = ()

    @contextmanager
    def of(self, rows: Rows) -> Iterator[None]:
        """Have the images of some designs flow.

        Args:
            rows: Theirs.
        """
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before


@dataclass(frozen=True)
class Part:
    """What a design has at one module of the backbone.

    Args:
        module: Its own copy of the module.
        whole: Whether that computes anything of its own, so that the design's images go through it.
        before: What is hooked in front of it.
        after: What is hooked behind it.
    """

    module: nn.Module
    whole: bool
    before: tuple[Callable[..., Any], ...]
    after: tuple[Callable[..., Any], ...]

    def enter(self, x: Tensor, *args: Any) -> Tensor:
        """Run what is in front, as torch does.

        Args:
            x: The module's first argument.
            args: The others.
        """
        given: tuple[Any, ...] = (x, *args)
        for hook in self.before:
            found = hook(self.module, given)
            given = given if found is None else found
        entered: Tensor = given[0]
        return entered

    def leave(self, y: Tensor, x: Tensor, *args: Any) -> Tensor:
        """Run what is behind, as torch does.

        Args:
            y: The module's output.
            x: Its first argument.
            args: The others.
        """
        for hook in self.after:
            found = hook(self.module, (x, *args), y)
            y = y if found is None else found
        return y


class Router:
    """What a module of the backbone computes where some designs have something of their own.

    Args:
        flow: Whose images there are.
        forward: What the module computes without any design.
        parts: What designs have there, by their names.
        drawing: In which `with` block a design draws random numbers.
    """

    def __init__(
        self,
        flow: Flow,
        forward: Callable[..., Tensor],
        parts: Mapping[str, Part],
        drawing: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._flow, self._forward, self._parts, self._drawing = flow, forward, parts, drawing

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The output for the images of all designs that are on their way, in their order.

        Args:
            x: (B, ...), for several designs behind one another.
            args: What is the same for all of them.
            kwargs: As well.
        """
        found = groupby(self._flow.rows, lambda row: row[0] if row[0] in self._parts else "")
        rows, parts = [], []
        for name, group in found:  # those that have nothing here go together
            rows.append(tuple(group))
            parts.append(self._parts.get(name))
        if not any(parts):
            return self._forward(x, *args, **kwargs)
        each = list(_split(x, rows))
        shared = [i for i, part in enumerate(parts) if part is None or not part.whole]
        for i, part in enumerate(parts):
            if part is not None and not part.whole and part.before:
                each[i] = self._own(rows[i], part.enter, each[i], *args)
        if shared:
            same = len(shared) == len(parts) and not any(part and part.before for part in parts)
            batch = x if same else torch.cat([each[i] for i in shared])
            with self._flow.of(tuple(row for i in shared for row in rows[i])):
                y = self._forward(batch, *args, **kwargs)
            if len(shared) == len(parts) and not any(part and part.after for part in parts):
                return y
            for i, left in zip(shared, _split(y, [rows[i] for i in shared]), strict=True):
                part = parts[i]
                each[i] = self._own(rows[i], part.leave, left, each[i], *args) if part and part.after else left
        for i, part in enumerate(parts):
            if part is not None and part.whole:
                each[i] = self._own(rows[i], part.module, each[i], *args, **kwargs)
        return torch.cat(each) if len(each) > 1 else each[0]

    def _own(self, rows: Rows, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        ((name, _),) = rows
        with self._drawing(name):
            made: Tensor = function(*args, **kwargs)
        return made


def _split(x: Tensor, groups: Sequence[Rows]) -> Sequence[Tensor]:
    """A batch by whose images they are; maps may come as several windows each."""
    images = [sum(count for _, count in rows) for rows in groups]
    return x.split([len(x) // sum(images) * count for count in images]) if len(groups) > 1 else [x]


def part_of(plain: nn.Module, model: nn.Module, path: str) -> Part | None:
    """What a design has at a module of the backbone; None for nothing.

    A block most of whose weights it uses in a way of its own is its own as a whole: to take its images out and to put
    them back would cost a copy at each layer.

    Args:
        plain: The backbone.
        model: The design's model, which holds the backbone's weights.
        path: The module's.
    """
    own = model.get_submodule(path)
    whole = _is_own(plain.get_submodule(path), own) or any(
        _is_own(plain.get_submodule(layer), model.get_submodule(layer)) or _hooked(model.get_submodule(layer))
        for layer in _taken(model, path)
    )
    whole = whole or (path in family_of(plain).block_paths(plain) and _is_mostly_own(plain.get_submodule(path), own))
    before, after = hooks_of(own, "in"), hooks_of(own, "out")
    return Part(own, whole, before, after) if whole or before or after else None


def _is_own(plain: nn.Module, own: nn.Module) -> bool:
    """Whether a module computes anything else than the backbone's, or draws.

    What drops elements may be done by the module that it is in, in one operation with others.
    """
    mine, theirs = (dict(module.named_parameters(recurse=False)) for module in (own, plain))
    other = mine.keys() != theirs.keys() or any(mine[name] is not theirs[name] for name in mine)
    drops = any(varies(child) and not isinstance(child, DropPath) for child in own.children())
    return type(own) is not type(plain) or other or replaced(own) or varies(own) or drops


def _is_mostly_own(plain: nn.Module, own: nn.Module) -> bool:
    """Whether a design has more than half of a block's weights in layers that it computes itself."""
    shared = 0
    for path, module in plain.named_modules():
        if not _is_own(module, own.get_submodule(path)):
            shared += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return 2 * shared < sum(parameter.numel() for parameter in plain.parameters())


def _hooked(module: nn.Module) -> bool:
    return bool(hooks_of(module, "in") or hooks_of(module, "out"))


def _taken(model: nn.Module, path: str) -> list[str]:
    """The layers in a module whose weights it uses without calling them."""
    layers = [layer.path for layer in family_of(model).shape(model).layers if layer.shadowed]
    return [layer for layer in layers if layer.rpartition(".")[0] == path]


def trained_at_root(plain: nn.Module, model: nn.Module) -> list[str]:
    """The parameters that a design trains and that the backbone holds outside of all its modules.

    Args:
        plain: The backbone.
        model: The design's model, which holds the backbone's weights.
    """
    theirs = dict(plain.named_parameters(recurse=False))
    return [name for name, p in model.named_parameters(recurse=False) if p is not theirs.get(name)]


@torch.no_grad()
def shapes_of(plain: nn.Module, model: nn.Module) -> Shapes:
    """What modules of the backbone take and give of one image, where a design leaves their own work to the backbone.

    Args:
        plain: The backbone.
        model: The design's model, which holds the backbone's weights.
    """
    shapes: Shapes = {}
    handles = []
    own: list[str] = []
    for path, module in model.named_modules():
        if not path or path.partition(".")[0] == "petl" or any(path.startswith(f"{outer}.") for outer in own):
            continue
        part = part_of(plain, model, path)
        if part and part.whole:
            own.append(path)
        handles.append(module.register_forward_hook(partial(_note, shapes, path, path in own)))
    training = model.training
    try:
        model.eval()(next(model.parameters()).new_zeros(1, 3, *family_of(model).image_size(model)))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return shapes


def _note(shapes: Shapes, path: str, own: bool, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    taken = args[0].shape if args and isinstance(args[0], Tensor) and not own else None
    shapes[path] = (taken, output.shape if isinstance(output, Tensor) else None)


def unlike(some: Shapes, others: Shapes) -> str | None:
    """A module that two designs share and that sees other shapes of one than of the other; None where there is none.

    Args:
        some: Of the one.
        others: Of the other.
    """
    for path in some.keys() & others.keys():
        if any(a is not None and b is not None and a != b for a, b in zip(some[path], others[path], strict=True)):
            return path
    return None
