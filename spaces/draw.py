"""Drawing designs from a space, and making any point fit its budget."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from petlas.petl.design import Design
from petlas.spaces.budget import Budget
from petlas.spaces.design_space import DesignSpace
from petlas.spaces.errors import SpaceError

_TRIES = 8  # Independent draws before walking.
_SWEEPS = 2  # Redraws of each coordinate in a walk.


def draw(space: DesignSpace, rng: np.random.Generator) -> list[int]:
    """Values for every coordinate, each uniform in its range; those under a depth rule uniform among sizes above 0.

    Args:
        space: The designs.
        rng: The source of randomness.
    """
    first = [0 if ruled is None else 1 for ruled in space.ruled]
    values: list[int] = rng.integers(first, space.highs, endpoint=True).tolist()
    return values


def repair(
    space: DesignSpace,
    point: Sequence[int],
    rng: np.random.Generator,
    budget: Budget,
    keep: Collection[int] = (),
) -> list[int]:
    """The point, shrunk by random steps until it fits the budget.

    All steps down to the smallest design are put in random order, and as few of them are taken as the budget needs:
    found by bisection, since the cost only falls along the way.

    Args:
        space: The designs.
        point: A point of the space.
        rng: Orders the steps.
        budget: The hard budget.
        keep: Coordinates that are shrunk last.

    Raises:
        SpaceError: When not even the smallest design fits.
    """
    if budget.allows(space.at(point)):
        return list(point)
    space.check_budget(budget)
    steps = [i for i, value in enumerate(point) for _ in range(value)]
    rng.shuffle(steps)
    steps.sort(key=lambda index: index in keep)
    few, enough = 0, len(steps)
    while few + 1 < enough:
        middle = (few + enough) // 2
        if budget.allows(space.at(_shrink(space, point, steps[:middle]))):
            enough = middle
        else:
            few = middle
    return _shrink(space, point, steps[:enough])


def enlarge(
    space: DesignSpace,
    point: Sequence[int],
    rng: np.random.Generator,
    budget: Budget,
    least: int,
    keep: Collection[int] = (),
) -> list[int]:
    """The point, enlarged by random steps until it costs enough: those are taken that the budget allows.

    Args:
        space: The designs.
        point: A point of the space that fits the budget.
        rng: Orders the steps.
        budget: The hard budget; where it has no cost, the point stays as it is.
        least: What the point is to cost at least.
        keep: Coordinates that are enlarged last.
    """
    large = list(point)
    if budget.cost is None or budget.cost(space.at(large)) >= least:
        return large
    steps = [i for i, (value, high) in enumerate(zip(point, space.highs, strict=True)) for _ in range(value, high)]
    rng.shuffle(steps)
    steps.sort(key=lambda index: index in keep)
    for index in steps:
        if large[index] < space.bounds(large, index)[1]:
            larger = placed(space, large, index, large[index] + 1)
            if budget.allows(design := space.at(larger)):
                large = larger
                if budget.cost(design) >= least:
                    break
    return large


def _shrink(space: DesignSpace, point: Sequence[int], steps: Sequence[int]) -> list[int]:
    """The point after taking one step down along each of the coordinates listed, as far as they can go."""
    small = list(point)
    for index in steps:
        if small[index] > space.bounds(small, index)[0]:
            small[index] -= 1
            if index < len(space.rules):
                small = space.settle(small)
    return small


def sample_design(space: DesignSpace, rng: np.random.Generator, budget: Budget) -> Design:
    """A random design within the budget.

    Without a binding budget every design is equally likely; methods under a depth rule are drawn as NOAH does, the
    depth uniform in its list and then every size uniform above 0, which favours no depth although deep designs are
    far more numerous.

    With a binding budget a draw that fits is kept, so the distribution is the one above given that the budget is
    met. Where several draws in a row exceed it, the last one is shrunk until it fits and then walks: coordinates are
    redrawn one at a time, and a redraw stands if it fits. Such a walk leads to that same distribution and is left
    after a fixed number of steps: what remains of its start is a slight preference for designs that use the budget up.

    Args:
        space: The designs.
        rng: The source of randomness.
        budget: The hard budget.

    Raises:
        SpaceError: When no design fits the budget.
    """
    for _ in range(_TRIES):
        values = draw(space, rng)
        design = space.at(space.settle(values))
        if budget.allows(design):
            return design
    point = repair(space, space.settle(values), rng, budget)
    # The walk also remembers the sizes of absent blocks, so that a change of depth is as likely as its way back.
    depths = len(space.rules)
    active = [space.ruled[i] is None or space.bounds(point, i)[1] > 0 for i in range(len(point))]
    values = [p if a else v for p, v, a in zip(point, values, active, strict=True)]
    order = [int(i) for _ in range(_SWEEPS) for i in rng.permutation(len(point))]
    for index in order:
        low = 0 if index < depths or space.ruled[index] is None else 1
        redrawn = values.copy()
        redrawn[index] = int(rng.integers(low, space.highs[index], endpoint=True))
        moved = space.settle(redrawn)
        smaller = all(new <= old for new, old in zip(moved, point, strict=True))
        if smaller or budget.allows(space.at(moved)):
            values, point = redrawn, moved
    return space.at(point)


def sample_design_by_cost(space: DesignSpace, rng: np.random.Generator, budget: Budget) -> Design:
    """A random design whose cost is spread evenly, from the smallest design's to the budget.

    It is the largest design, shrunk at random: where most designs cost much the same, this reaches the cheap and the
    expensive ones too.

    Args:
        space: The designs.
        rng: The source of randomness.
        budget: The hard budget, with a cost.

    Raises:
        SpaceError: When no design fits the budget, or the budget has no cost.
    """
    if budget.cost is None:
        raise SpaceError("drawing evenly over costs needs a budget with a cost: pass a function of a design")
    space.check_budget(budget)
    most = budget.cost(space.largest)
    most = most if budget.limit is None else min(most, budget.limit)
    target = int(rng.integers(budget.cost(space.smallest), most, endpoint=True))
    return space.at(repair(space, space.point(space.largest), rng, replace(budget, limit=target)))


def largest(space: DesignSpace, point: Sequence[int], index: int, budget: Budget) -> int:
    """The largest value of a coordinate that fits the budget, the others as they are; the least value must fit.

    Args:
        space: The designs.
        point: A point of the space.
        index: The coordinate.
        budget: The hard budget.
    """
    low, high = space.bounds(point, index)
    middle = high  # First, since most budgets bind late.
    while low < high:
        if budget.allows(space.at(placed(space, point, index, middle))):
            low = middle
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low


def placed(space: DesignSpace, point: Sequence[int], index: int, value: int) -> list[int]:
    """The point with one coordinate set, settled where that changes a depth.

    Args:
        space: The designs.
        point: A point of the space.
        index: The coordinate.
        value: Its new value.
    """
    moved = list(point)
    moved[index] = value
    return space.settle(moved) if index < len(space.rules) else moved


def list_designs(space: DesignSpace, budget: Budget, near: Design | None = None) -> Iterator[Design]:
    """Every design within the budget, once; each after a bounded number of cost calls, however large the space.

    Args:
        space: The designs.
        budget: The hard budget.
        near: A design of the space whose choices come first; None starts at the smallest design.

    Raises:
        SpaceError: When no design fits the budget.
    """
    space.check_budget(budget)
    target = space.lowest if near is None else space.point(near)

    def extend(point: Sequence[int], index: int) -> Iterator[Design]:
        if index == len(point):
            yield space.at(point)
            return
        values = range(space.bounds(point, index)[0], largest(space, point, index, budget) + 1)
        for value in sorted(values, key=lambda value: abs(value - target[index])):
            yield from extend(placed(space, point, index, value), index + 1)

    yield from extend(space.lowest, 0)
