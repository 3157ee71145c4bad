"""Varying designs: mutation, crossover, and the feasible design next to a proposal."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from petlas.petl.design import Design
from petlas.spaces.budget import Budget
from petlas.spaces.design_space import DesignSpace
from petlas.spaces.dimension import DepthRule
from petlas.spaces.draw import draw, enlarge, placed, repair
from petlas.spaces.errors import SpaceError

CrossoverUnit = Literal["dimension", "method", "block"]
"""What a child inherits from one parent as a whole."""

_TRIES = 8  # Mutations that may be undone by the budget before neighbours are tried one by one.


def _neighbours(space: DesignSpace, point: Sequence[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Every other value of every coordinate, as (index, value) in random order."""
    spans = [(i, space.bounds(point, i)) for i in range(len(point))]
    moves = [(i, v) for i, (low, high) in spans for v in range(low, high + 1) if v != point[i]]
    rng.shuffle(moves)
    return moves


def _spans(space: DesignSpace, point: Sequence[int], cut: int) -> list[tuple[int, int]]:
    """The range of each coordinate, where only what leaves the blocks before `cut` as they are may move."""
    spans = []
    for index, variable in enumerate(space.variables):
        low, high = space.bounds(point, index)
        if isinstance(variable, DepthRule):
            before = sum(d.method == variable.method and (d.block or 0) < cut for d in space.dimensions)
            low = bisect_left(variable.depths, before)
            fixed = point[index] < low
        else:
            fixed = cut > 0 and (variable.block is None or variable.block < cut)
        spans.append((point[index], point[index]) if fixed else (low, high))
    return spans


def _perturb(
    space: DesignSpace,
    point: Sequence[int],
    rng: np.random.Generator,
    chance: Sequence[float],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[int], set[int]]:
    """The point with coordinates moved within their spans, each with its chance and at least one; and which ones."""
    movable = [i for i, (low, high) in enumerate(spans) if low < high]
    if not movable:
        return list(point), set()
    moved = {i for i in movable if rng.random() < chance[i]} or {int(rng.choice(movable))}
    # Blocks that a new depth reaches get a random size; settling takes it back from those still beyond the depth.
    fresh, bounds = draw(space, rng), [space.bounds(point, i) for i in range(len(point))]
    values = [new if old == high == 0 else old for new, old, (_, high) in zip(fresh, point, bounds, strict=True)]
    for i in moved:
        low, high = spans[i]
        values[i] = int(rng.integers(low, high))
        values[i] += values[i] >= point[i]
    return space.settle(values), moved


def mutate_design(
    space: DesignSpace,
    design: Design,
    rng: np.random.Generator,
    budget: Budget,
    *,
    probability: float = 0.2,
    depth_probability: float | None = None,
    late: bool = False,
    least: int = 0,
) -> Design:
    """Another design near the given one, within the budget.

    Each size moves with the given probability to another one, drawn uniformly; so does each depth, whose new blocks
    get random sizes. A mutant over the budget is shrunk, first where it did not move: enlarging one place takes
    from others. One below `least` is enlarged in the same way. The result differs from the given design whenever the
    space has another one within the budget.

    Args:
        space: The designs.
        design: A design of the space.
        rng: The source of randomness.
        budget: The hard budget.
        probability: The probability that a size moves; at least one always does.
        depth_probability: The probability that a depth moves (NOAH: 0.4); None is the same probability.
        late: Whether a block is drawn before which nothing moves: designs that are scored one after the other then
            share what their first blocks compute.
        least: What the result is to cost at least, as far as steps within the budget lead there.

    Raises:
        SpaceError: When the design is not in the space, or no design fits the budget.
    """
    start = list(space.point(design))
    depths = probability if depth_probability is None else depth_probability
    chance = [depths] * len(space.rules) + [probability] * len(space.dimensions)
    blocks = 1 + max((d.block or 0 for d in space.dimensions), default=0)
    for _ in range(_TRIES):
        spans = _spans(space, start, int(rng.integers(blocks)) if late else 0)
        changed, moved = _perturb(space, start, rng, chance, spans)
        fixed = {i for i, (low, high) in enumerate(spans) if low == high}
        keep = moved | fixed if late else moved
        point = enlarge(space, repair(space, changed, rng, budget, keep), rng, budget, least, keep)
        if point != start:
            return space.at(point)
    for index, value in _neighbours(space, start, rng):
        neighbour = space.at(placed(space, start, index, value))
        if budget.allows(neighbour):
            return neighbour
    return space.at(start)


def cross_designs(
    space: DesignSpace,
    a: Design,
    b: Design,
    rng: np.random.Generator,
    budget: Budget,
    *,
    by: CrossoverUnit = "dimension",
    least: int = 0,
) -> Design:
    """A child of two designs, shrunk at random places where it exceeds the budget.

    Args:
        space: The designs.
        a: A design of the space.
        b: A design of the space.
        rng: The source of randomness.
        budget: The hard budget.
        by: What is inherited from one parent as a whole. `dimension`: each size on its own, and each depth; a block
            within the depth that only one parent fills has that parent's size. `method`: each method with all its
            sizes, as NOAH does. `block`: everything before a random block, and what is placed over the whole backbone,
            from one parent, the rest from the other; it shares the first parent's blocks up to there, and is shrunk
            there last. A method that ends before that block in the first parent ends there in the child; any other
            ends where it does in the second parent, but no earlier than at the next depth allowed.
        least: What the child is to cost at least, as far as steps within the budget lead there.

    Raises:
        SpaceError: When a parent is not in the space, `by` is unknown, or no design fits the budget.
    """
    if by not in get_args(CrossoverUnit):
        raise SpaceError(f"crossover is by one of {', '.join(get_args(CrossoverUnit))}, got by={by!r}")
    first, second = space.point(a), space.point(b)
    coins = rng.random(len(first)) < 0.5
    if by == "method":
        methods = sorted({variable.method for variable in space.variables})
        heads = dict(zip(methods, rng.random(len(methods)) < 0.5, strict=True))
        coins = np.array([heads[variable.method] for variable in space.variables], dtype=bool)
    child = [x if coin else y for x, y, coin in zip(first, second, coins, strict=True)]
    keep: set[int] = set()
    if by == "block":
        first, second = (first, second) if coins[0] else (second, first)
        child, keep = _cross_at_block(space, first, second, rng)
    # Within the inherited depth at least one parent is present, and beyond it settling removes what was inherited.
    genes = zip(first, second, child, space.ruled, strict=True)
    filled = [max(x, y) if ruled and not gene else gene for x, y, gene, ruled in genes]
    return space.at(enlarge(space, repair(space, space.settle(filled), rng, budget, keep), rng, budget, least, keep))


def _cross_at_block(
    space: DesignSpace, first: Sequence[int], second: Sequence[int], rng: np.random.Generator
) -> tuple[list[int], set[int]]:
    """The first parent's sizes before a random block and the second's from it on, and the coordinates to shrink last.

    The depths are such that settling changes no size before that block.
    """
    blocks = [-1 if d.block is None else d.block for d in space.dimensions]  # The whole backbone: from the start on.
    levels = sorted(set(blocks) - {-1})
    cut = int(rng.choice(levels[1:] or levels or [0]))
    late = {index for index, block in enumerate(blocks, start=len(space.rules)) if block >= cut}
    child = [second[index] if index in late else first[index] for index in range(len(first))]
    for index, rule in enumerate(space.rules):
        before = sum(d.method == rule.method and b < cut for d, b in zip(space.dimensions, blocks, strict=True))
        if rule.depths[first[index]] >= before:
            child[index] = max(second[index], bisect_left(rule.depths, before))
    return child, set(range(len(child))) - late


def fit_design(
    space: DesignSpace, params: Mapping[str, int | float], rng: np.random.Generator, budget: Budget
) -> Design:
    """The feasible design next to a proposal: clipped to the space and its depth rules, and shrunk into the budget.

    Args:
        space: The designs.
        params: Parameters of a trial; missing ones are drawn at random, others than the space's are ignored.
        rng: The source of randomness.
        budget: The hard budget.

    Raises:
        SpaceError: When no design fits the budget.
    """
    proposal = [int(params.get(v.name, value)) for v, value in zip(space.variables, draw(space, rng), strict=True)]
    return space.at(repair(space, space.settle(proposal), rng, budget))
