"""How the parts of a model follow each other, seen in one forward pass without numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from petlas.petl.copies import copied
from petlas.petl.parts.handles import ForwardOverride


@dataclass(frozen=True)
class Followed:
    """What a forward pass has shown of a model.

    Args:
        size: Height and width of its images.
        first: The module that the images enter, by its path.
        blocks: The paths of the blocks, in the order of the forward pass.
        maps: Channels, rows and columns of what leaves each block; tokens are a column.
        called: The paths of all modules that are called.
        behind: What runs behind each block, up to the next or to timm's `forward_head`, by the paths.
        gap: Between which modules something else happens, so that it does not run in parts; None where it does.
    """

    size: tuple[int, int]
    first: str
    blocks: tuple[str, ...]
    maps: tuple[tuple[int, int, int], ...]
    called: frozenset[str]
    behind: tuple[tuple[str, ...], ...]
    gap: str | None


def follow(model: nn.Module, size: tuple[int, int]) -> Followed:
    """Watch a model compute on images of a size, on the meta device: no number is computed, and nothing changes.

    The blocks are the modules of several layers that stand in containers of the model, called one behind the other by
    the model itself; where none stand in a container, they are the model's own such children but the first, its stem.

    Args:
        model: A timm model.
        size: Height and width of the images.

    Raises:
        ValueError: When it has no blocks, or gives other than one row of logits for each image.
        Exception: Whatever its forward pass raises.
    """
    watched = _watch(model, size)
    parts = list(_parts(watched.before_head))
    blocks = _blocks(parts)
    if not blocks:
        raise ValueError("it has no modules of several layers")
    parts = parts[parts.index(blocks[0]) :]
    behind: list[list[str]] = []
    for part in parts:
        if part in blocks:
            behind.append([])
        else:
            behind[-1].append(part.path)
    return Followed(
        size=size,
        first=watched.root.children[0].path,
        blocks=tuple(block.path for block in blocks),
        maps=tuple(_map(block.left) for block in blocks),
        called=frozenset(call.path for call in watched.root.all()),
        behind=tuple(map(tuple, behind)),
        gap=_gap(parts, watched.entered_head),
    )


@dataclass(eq=False)
class _Call:
    """A module that was called: with what, what it gave, and whom it called."""

    path: str
    module: nn.Module
    entered: tuple[Any, ...]
    left: Any = None
    children: list[_Call] = field(default_factory=list)

    def all(self) -> Iterator[_Call]:
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def is_body(self) -> bool:
        """Whether it is a module of several layers."""
        return sum(any(True for _ in module.parameters(recurse=False)) for module in self.module.modules()) > 1

    @property
    def opens(self) -> bool:
        """Whether it is a sequence of such modules."""
        return isinstance(self.module, nn.Sequential) and any(child.is_body for child in self.children)


@dataclass
class _Watched:
    root: _Call
    before_head: list[_Call] = field(default_factory=list)
    entered_head: Any = None


def _watch(model: nn.Module, size: tuple[int, int]) -> _Watched:
    twin = _without_numbers(model)
    watched = _Watched(_Call("", twin, ()))
    with _hooked(twin, watched), torch.no_grad():
        logits = twin(torch.empty(2, 3, *size, device="meta", dtype=next(model.parameters()).dtype))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError("it gives something else than one row of logits for each image")
    if not watched.before_head:
        raise ValueError("its forward pass is not timm's forward_features and forward_head")
    return watched


def _without_numbers(model: nn.Module) -> nn.Module:
    """A copy on the meta device, in evaluation mode: some models keep what they have computed."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copied(model, memo).eval()


@contextmanager
def _hooked(model: nn.Module, watched: _Watched) -> Iterator[None]:
    stack = [watched.root]

    def enter(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = _Call(path, module, (*args, *kwargs.values()))
        stack[-1].children.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stack.pop().left = output

    def head(x: Any, *args: Any, **kwargs: Any) -> Any:
        watched.before_head, watched.entered_head = list(watched.root.children), x
        return own(x, *args, **kwargs)

    own: Any = model.forward_head
    handles: list[Any] = [ForwardOverride(model, head, "forward_head")]
    try:
        for path, module in model.named_modules():
            if path and not path.startswith("petl."):
                handles.append(module.register_forward_pre_hook(partial(enter, path), with_kwargs=True))
                handles.append(module.register_forward_hook(leave, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(calls: Sequence[_Call]) -> Iterator[_Call]:
    """What a model calls, sequences of modules of several layers opened, but for the first: the stem is one."""
    while len(calls) == 1 and calls[0].opens:
        calls = calls[0].children
    yield calls[0]
    for call in calls[1:]:
        yield from _opened(call)


def _opened(call: _Call) -> Iterator[_Call]:
    if not call.opens:
        yield call
        return
    for child in call.children:
        yield from _opened(child)


def _blocks(parts: Sequence[_Call]) -> list[_Call]:
    level = parts[0].path.count(".")
    bodies = [part for part in parts if part.is_body]
    inside = [part for part in bodies if part.path.count(".") > level]
    found = inside or [part for part in bodies if part is not parts[0]] or bodies
    return list({part.path: part for part in reversed(found)}.values())[::-1]  # each where it runs first


def _map(left: Any) -> tuple[int, int, int]:
    """Channels, rows and columns of (B, C, H, W), (B, H, W, C) or (B, N, C), the images being square or nearly so."""
    x = next(iter(left)) if isinstance(left, tuple | list) else left
    if x.ndim == 3:
        return x.shape[2], x.shape[1], 1
    if x.ndim != 4:
        return x.shape[-1], 1, 1
    _, a, b, c = x.shape
    return (c, a, b) if abs(a - b) < abs(b - c) else (a, b, c)


def _gap(parts: Sequence[_Call], entered_head: Any) -> str | None:
    """Where something else stands between modules than that the next is given what the one before gave."""
    paths = [part.path for part in parts]
    if len(set(paths)) < len(paths):
        return "some of its blocks run more than once"
    for part in parts:
        if len(part.entered) != 1 or not isinstance(part.left, Tensor):
            return f"{part.path} is given, or gives, more than the stream"
    for part, following in pairwise(parts):
        if part.left is not following.entered[0]:
            return f"something else happens between {part.path} and {following.path}"
    return None if parts[-1].left is entered_head else f"something else happens behind {parts[-1].path}"
