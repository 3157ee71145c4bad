"""The leading blocks that a design leaves as they are: what they compute can be kept, and put in again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import Family
from petlas.petl.backbones.still import BATCH_NORMS, is_still
from petlas.petl.check import methods_of
from petlas.petl.design import Design
from petlas.petl.parts.handles import ForwardOverride
from petlas.petl.parts.side import Side
from petlas.petl.tuning import tuning_of

_DRAWS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, DropPath)


@dataclass(frozen=True)
class Prefix:
    """The leading blocks of a backbone that compute what the frozen backbone alone computes, whatever is trained.

    Stream 0 is what enters the first block, stream i what leaves the i-th.

    Args:
        blocks: How many they are.
        streams: The streams that stand in for them: what leaves the last of them, and what a design reads between them.
        asked: Blocks whose keys and values a design asks.
    """

    blocks: int
    streams: tuple[int, ...]
    asked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Streams:
    """What stands in for images once a model's leading blocks have run: see `resume`.

    Args:
        prefix: Of the model.
        known: Its streams, each (B, ...), by their numbers.
        size: Height and width of the images.
    """

    prefix: Prefix
    known: Mapping[int, Tensor]
    size: tuple[int, int]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.known[self.prefix.blocks])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.known[self.prefix.blocks].device


def prefix_of(model: nn.Module) -> Prefix | None:
    """The leading blocks that the design of a model leaves as they are; None where it leaves none.

    Blocks that draw random numbers in training, such as those that drop paths, are no part of it.

    Args:
        model: A backbone with a design; a supernet's is its largest.

    Raises:
        DesignError: When the model carries no design.
    """
    if family_of(model).why_whole(model) is not None:
        return None
    design, blocks = tuning_of(model).design, family_of(model).blocks(model)
    depth, methods = len(blocks), [(method, design.by_method[method.name]) for method in methods_of(design)]
    count = untouched(design, depth)
    inside = {id(module) for block in blocks for module in block.modules()}
    inside |= {id(module) for module in tuning_of(model).modules()}
    if any(varies(module) for module in model.modules() if id(module) not in inside):
        return None
    count = next((i for i, block in enumerate(blocks[:count]) if any(map(varies, block.modules()))), count)
    if not count:
        return None
    asked = frozenset(block for method, placements in methods for block in method.asks(placements) if block < count)
    read = {stream for method, placements in methods for stream in method.looks(placements, depth) if stream <= count}
    read |= {count} | {stream for block in asked for stream in (block, block + 1)}
    return Prefix(count, tuple(sorted(read)), asked)


def untouched(design: Design, depth: int) -> int:
    """How many leading blocks, with all in front of them, a design leaves as the frozen backbone has them.

    Args:
        design: The design.
        depth: Blocks of the backbone.

    Raises:
        DesignError: On a name that is no method's.
    """
    return min((m.untouched(design.by_method[m.name], depth) for m in methods_of(design)), default=depth)


def varies(module: nn.Module) -> bool:
    """Whether a module gives other outputs for the same input in training, by chance or by the rest of the batch.

    Args:
        module: The module, without those in it.
    """
    drops = isinstance(module, _DRAWS) and any(bool(getattr(module, rate, False)) for rate in ("p", "drop_prob"))
    return drops or (isinstance(module, BATCH_NORMS) and not is_still(module))


@torch.no_grad()
def run_prefix(model: nn.Module, x: Tensor, prefix: Prefix, start: int | None = None) -> dict[int, Tensor]:
    """The streams of a prefix, computed by the blocks themselves; side networks take no part in it.

    Args:
        model: A backbone with a design.
        x: Images (B, 3, H, W), or a stream.
        prefix: The model's.
        start: The number of that stream; None for images.
    """
    family, known = family_of(model), {}
    if start is None:
        start, x = 0, family.enter(model, x)
    _forget(model)
    for number in range(start, prefix.blocks):
        if number in prefix.streams:
            known[number] = x
        x = family.step(model, number, x)
    return known | {prefix.blocks: x}


def resume(model: nn.Module, streams: Streams) -> Tensor:
    """The logits (B, K) of a model from the streams of its leading blocks, hooks included.

    Methods that read between those blocks see what they would see if the blocks had run.

    Args:
        model: A backbone with a design.
        streams: Of its prefix, or that of a design that leaves fewer blocks alone.
    """
    family, x = family_of(model), replay(model, streams)
    for number in range(streams.prefix.blocks, len(family.blocks(model))):
        x = family.step(model, number, x)
    return family.leave(model, x)


def replay(model: nn.Module, streams: Streams) -> Tensor:
    """What leaves a model's leading blocks (B, ...), after methods have read what they read between them.

    Args:
        model: A backbone with a design.
        streams: Of its prefix, or that of a design that leaves fewer blocks alone.
    """
    family, prefix, known = family_of(model), streams.prefix, streams.known
    _announce(family, model, streams)
    x = known[prefix.blocks]
    for number, block in enumerate(family.blocks(model)[: prefix.blocks]):
        if number in known and number + 1 in known:
            left = _replayed(family, block, known[number], known[number + 1], number in prefix.asked)
            x = left if number + 1 == prefix.blocks else x
    return x


def _announce(family: Family, model: nn.Module, streams: Streams) -> None:
    """Let those who listen at the images know that a pass begins, and of which size they are."""
    images = streams.known[streams.prefix.blocks].new_zeros(()).expand(len(streams), 3, *streams.size)
    stem = family.site(model, "images").module
    with _instead(stem, _itself):
        stem(images)


def _replayed(family: Family, block: nn.Module, entered: Tensor, left: Tensor, asked: bool) -> Tensor:
    """A block with its hooks, whose output is known."""
    with _instead(block, partial(_known, family, block, left, asked)):
        x: Tensor = block(entered)
    return x


def _known(family: Family, block: nn.Module, left: Tensor, asked: bool, x: Tensor) -> Tensor:
    if asked:
        family.show_keys(block, x)
    return left


def _itself(x: Tensor) -> Tensor:
    return x


@contextmanager
def _instead(module: nn.Module, function: Callable[..., Tensor]) -> Iterator[None]:
    """Another function in place of a module's own `forward`."""
    handle = ForwardOverride(module, function)
    try:
        yield
    finally:
        handle.remove()


def _forget(model: nn.Module) -> None:
    """Let side networks go of the pass that was begun for the prefix alone."""
    for module in tuning_of(model).modules():
        if isinstance(module, Side):
            module.forget()
