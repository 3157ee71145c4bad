"""Blocks and sizes as a space's YAML names them: by index, by range, by stage; absolute, or as shares of a width."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from petlas.spaces.errors import SpaceError, nearest

Stages: TypeAlias = Sequence[tuple[int, int]]
"""Blocks and width of each stage of a backbone; a plain vision transformer has one."""

_SHAPE = "all, backbone, a list of blocks, a range such as 3-8, or stages such as {stages: [2, 3]}"


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def parse_blocks(value: Any, depth: int | None = None, stages: Stages = ()) -> tuple[int | None, ...]:
    """The blocks that `blocks:` names, in order.

    Args:
        value: `all`, `backbone`, a list of block indices from 0, a range such as `3-8`, both ends included; or a
            mapping of `stages`, from 0, and optionally of `blocks`, which then count within each stage.
        depth: The backbone's number of blocks; None while it is unknown.
        stages: The backbone's; empty while they are unknown.

    Returns:
        Block indices; `(None,)` for the whole backbone; nothing for `all` and stages while the depth is unknown.

    Raises:
        SpaceError: When the value names no blocks, or blocks that the backbone does not have.
    """
    if value == "backbone":
        return (None,)
    if value == "all":
        return tuple(range(depth or 0))
    if isinstance(value, Mapping):
        return _of_stages(value, depth, stages)
    blocks = _indices(value, "block")
    if depth is not None and blocks[-1] >= depth:
        raise SpaceError(f"names block {blocks[-1]}, but the backbone has blocks 0 to {depth - 1}")
    return tuple(blocks)


def _of_stages(value: Mapping[Any, Any], depth: int | None, stages: Stages) -> tuple[int, ...]:
    for key in value:
        if key not in ("stages", "blocks"):
            raise SpaceError(f"has the unknown key {key}; {nearest(str(key), ('stages', 'blocks'))}")
    if "stages" not in value:
        raise SpaceError(f"counts blocks within stages, and names none, got {dict(value)!r}; give {{stages: [2, 3]}}")
    wanted, within = _indices(value["stages"], "stage"), value.get("blocks", "all")
    chosen = None if within == "all" else _indices(within, "block")
    if depth is None:
        return ()
    known = stages or ((depth, 0),)
    if wanted[-1] >= len(known):
        raise SpaceError(f"names stage {wanted[-1]}, but the backbone has stages 0 to {len(known) - 1}")
    found: list[int] = []
    for stage in wanted:
        size, start = known[stage][0], sum(blocks for blocks, _ in known[:stage])
        if chosen and chosen[-1] >= size:
            raise SpaceError(f"names block {chosen[-1]} of stage {stage}, which has blocks 0 to {size - 1}")
        found += [start + index for index in (range(size) if chosen is None else chosen)]
    return tuple(found)


def _indices(value: Any, what: str) -> list[int]:
    """A list of indices from 0, or a range."""
    span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", value) if isinstance(value, str) else None
    if span:
        first, last = int(span[1]), int(span[2])
        if first > last:
            raise SpaceError(f"a range goes from its first to its last {what}, got {value!r}; write '{last}-{first}'")
        return list(range(first, last + 1))
    if isinstance(value, list | tuple) and value and all(map(is_count, value)):
        if len(set(value)) < len(value):
            raise SpaceError(f"names a {what} twice, got {value!r}; name each {what} once")
        return sorted(value)
    raise SpaceError(f"must be {_SHAPE}, got {value!r}")


def share_of(size: Any) -> Fraction | None:
    """The share of the width that a size such as `1/32` is; None where it is none."""
    match = re.fullmatch(r"\s*([1-9]\d*)\s*/\s*([1-9]\d*)\s*", size) if isinstance(size, str) else None
    return Fraction(int(match[1]), int(match[2])) if match else None


def sizes_at(sizes: Sequence[int | str], block: int | None, stages: Stages) -> tuple[int, ...]:
    """The sizes of a method at a block, shares of the width taken of its stage and rounded, to 1 at least.

    Args:
        sizes: As the YAML has them.
        block: The block's index; None for the whole backbone, whose width is that of its last stage.
        stages: The backbone's.

    Raises:
        SpaceError: When there are shares, and no width is known.
    """
    if not any(share_of(size) for size in sizes):
        return tuple(int(size) for size in sizes)
    if not stages:
        raise SpaceError(f"sizes that are shares of the width need a backbone whose width is known, got {list(sizes)}")
    width = stages[-1][1]
    if block is not None:
        ends = [sum(blocks for blocks, _ in stages[: number + 1]) for number in range(len(stages))]
        width = next(width for end, (_, width) in zip(ends, stages, strict=True) if block < end)
    found = {max(1, round(share * width)) if (share := share_of(size)) else int(size) for size in sizes}
    return tuple(sorted(found))
