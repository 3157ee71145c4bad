"""How one pass of a backbone serves several designs: each module sends images through what their design has there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from typing import Any, TypeAlias, cast

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.handles import hooks_of, replaced
from petlas.petl.parts.joint import Asked, asked_of, essence, is_asking, together
from petlas.petl.parts.trained_layers import trained_layer
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

    @property
    def way(self) -> Hashable:
        """What it does, whatever the numbers that it does it with."""
        return self.whole, *map(essence, (self.module.forward, *self.before, *self.after))

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


Act: TypeAlias = tuple[Callable[..., Tensor], bool]
"""What a design does at a module, and whether it asks for that, so that it can be done for several at once."""

Pieces: TypeAlias = list[tuple[tuple[int, ...], Tensor]]
"""A batch in pieces: which of its runs of images are in each, and the images (B, ...)."""


@dataclass(frozen=True)
class _Batch:
    """Runs of images of one design each, or of several that have nothing at a module.

    Args:
        names: The design's, of each run; empty for several.
        rows: The rows of each run.
    """

    names: tuple[str, ...]
    rows: tuple[Rows, ...]

    def of(self, runs: Sequence[int]) -> Rows:
        """The rows of some runs."""
        return tuple(row for i in runs for row in self.rows[i])

    def cut(self, pieces: Pieces, label: Callable[[int], Hashable]) -> Pieces:
        """The pieces, cut between runs that differ in something."""
        found: Pieces = []
        for runs, x in pieces:
            groups = [tuple(group) for _, group in groupby(runs, label)]
            found += zip(groups, _split(x, [self.of(group) for group in groups]), strict=True)
        return found

    def each(self, pieces: Pieces) -> dict[int, Tensor]:
        """The images of each run."""
        return {i: x for (i,), x in self.cut(pieces, lambda i: i)}


class Router:
    """What a module of the backbone computes where some designs have something of their own.

    What designs ask for is done at once for those that ask for one kind of operation: see `petlas.petl.parts.joint`.

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
        shared = {name: part for name, part in parts.items() if not part.whole}
        self._before = {name: (part.enter, _asking(part.before)) for name, part in shared.items() if part.before}
        self._after = {name: (part.leave, _asking(part.after)) for name, part in shared.items() if part.after}
        self._own: dict[str, Act] = {}
        for name, part in parts.items():
            if part.whole:
                function = trained_layer(part.module)
                self._own[name] = function, not (part.before or part.after) and is_asking(function)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The output for the images of all designs that are on their way, in their order.

        Args:
            x: (B, ...), for several designs behind one another.
            args: What is the same for all of them.
            kwargs: As well.
        """
        found = [
            (name, tuple(group))
            for name, group in groupby(self._flow.rows, lambda row: row[0] if row[0] in self._parts else "")
        ]
        batch = _Batch(tuple(name for name, _ in found), tuple(rows for _, rows in found))
        entered = self._act(batch, [(tuple(range(len(found))), x)], self._before, lambda i, own: (own, *args))

        def forward(runs: tuple[int, ...], x: Tensor) -> Tensor:
            with self._flow.of(batch.of(runs)):
                return self._forward(x, *args, **kwargs)

        own = {name: (partial(function, **kwargs), asks) for name, (function, asks) in self._own.items()}
        pieces = self._act(batch, entered, own, lambda i, own: (own, *args), forward)
        if self._after.keys() & set(batch.names):
            inputs = batch.each(entered)
            pieces = self._act(batch, pieces, self._after, lambda i, own: (own, inputs[i], *args))
        return _cat([x for _, x in pieces])

    def _act(
        self,
        batch: _Batch,
        pieces: Pieces,
        acts: Mapping[str, Act],
        given: Callable[[int, Tensor], tuple[Any, ...]],
        rest: Callable[[tuple[int, ...], Tensor], Tensor] | None = None,
    ) -> Pieces:
        """What comes of a batch where some designs act on their images.

        Args:
            batch: Its runs.
            pieces: Its images.
            acts: What designs do.
            given: What that is given, by the run and its images.
            rest: What is done with the images of all others together; None for nothing.
        """
        own = {i: acts[name] for i, name in enumerate(batch.names) if name in acts}
        if not own and rest is None:
            return pieces
        asked: dict[int, Tensor | Asked] = {}
        each = batch.each(pieces) if any(asks for _, asks in own.values()) else {}
        for i, (function, asks) in own.items():
            if asks:
                with self._drawing(batch.names[i]):
                    asked[i] = asked_of(function, *given(i, each[i]))
        labels: dict[int, Hashable] = dict.fromkeys(range(len(batch.names))) | {i: i for i in own}
        labels |= {i: found.kind for i, found in asked.items() if isinstance(found, Asked)}
        cut, done, looked = batch.cut(pieces, labels.__getitem__), Pieces(), rest is None
        for label in dict.fromkeys(labels[runs[0]] for runs, _ in cut):
            parts = [(runs, x) for runs, x in cut if labels[runs[0]] == label]
            if label is None and rest is None:
                done += parts
                continue
            runs, x = tuple(chain.from_iterable(runs for runs, _ in parts)), _cat([x for _, x in parts])
            first = asked.get(runs[0])
            if label is None and rest is not None:
                result = rest(runs, x)
            elif isinstance(first, Asked):
                result = together([cast(Asked, asked[i]) for i in runs], [each[i] for i in runs], x)
            elif first is not None:
                result = first
            else:
                with self._drawing(batch.names[runs[0]]):
                    result = own[runs[0]][0](*given(runs[0], x))
            looked = looked and result is x
            behind = {i: i - place for place, i in enumerate(runs)}  # the same for those that lie behind one another
            done += batch.cut([(runs, result)], behind.__getitem__)
        return pieces if looked else sorted(done, key=lambda piece: piece[0])


def _asking(hooks: Sequence[Callable[..., Any]]) -> bool:
    """Whether what is hooked on one side of a module ends in what it asks for, and has nothing in front of that."""
    return len(hooks) == 1 and is_asking(hooks[0])


def _split(x: Tensor, groups: Sequence[Rows]) -> Sequence[Tensor]:
    """A batch by whose images they are; maps may come as several windows each."""
    images = [sum(count for _, count in rows) for rows in groups]
    return x.split([len(x) // sum(images) * count for count in images]) if len(groups) > 1 else [x]


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def parts_of(plain: nn.Module, models: Mapping[str, nn.Module]) -> dict[str, dict[str, Part]]:
    """What designs have at the modules of the backbone, by the paths of those where one has anything.

    A block most of whose weights a design uses in a way of its own, and no other design in that way, is its own as a
    whole: to take its images out and to put them back would cost a copy at each layer.

    Args:
        plain: The backbone.
        models: The designs' models, which hold the backbone's weights, by name.
    """
    paths = [path for path, _ in plain.named_modules() if path]
    each = {path: {name: part_of(plain, model, path) for name, model in models.items()} for path in paths}
    found = {path: {name: part for name, part in own.items() if part is not None} for path, own in each.items()}
    for block in family_of(plain).block_paths(plain):
        inside = [path for path in paths if path.startswith(f"{block}.")]
        ways = {name: [(path, found[path][name].way) for path in inside if name in found[path]] for name in models}
        for name, model in models.items():
            own = model.get_submodule(block)
            if list(ways.values()).count(ways[name]) == 1 and _is_mostly_own(plain.get_submodule(block), own):
                found[block][name] = Part(own, True, hooks_of(own, "in"), hooks_of(own, "out"))
    return {path: own for path, own in found.items() if own}


def part_of(plain: nn.Module, model: nn.Module, path: str) -> Part | None:
    """What a design has at a module of the backbone; None for nothing.

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
