"""The designs of a space, and the points that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from petlas.petl.design import Design
from petlas.spaces.budget import Budget
from petlas.spaces.dimension import DepthRule, Dimension
from petlas.spaces.errors import SpaceError, nearest


@dataclass(frozen=True)
class DesignSpace:
    """The designs that may be chosen: one size per dimension, under at most one depth rule per method.

    *Choices* are size indices, one per dimension. A *point* is what a search moves in: the depth index of each rule,
    then the choices; its coordinates are parameters of a trial, and each design of the space has exactly one.

    Args:
        dimensions: The choices to make.
        rules: The depth rules; each needs a method whose dimensions can all be absent.
        backbone: The timm name that every design of this space carries, if any.

    Raises:
        SpaceError: When names repeat, or a rule does not fit its method's dimensions.
    """

    dimensions: tuple[Dimension, ...]
    rules: tuple[DepthRule, ...] = ()
    backbone: str | None = None

    def __post_init__(self) -> None:
        check_names([variable.name for variable in self.variables])
        for rule in self.rules:
            mine = [d for d in self.dimensions if d.method == rule.method]
            if rule.depths[-1] > len(mine) or any(d.sizes[0] or not d.high for d in mine):
                raise SpaceError(
                    f"{rule.name} needs at most {len(mine)} blocks, each with size 0 and another, got {rule.depths}"
                )

    @cached_property
    def variables(self) -> tuple[DepthRule | Dimension, ...]:
        """What a point has a coordinate for: the rules, then the dimensions."""
        return (*self.rules, *self.dimensions)

    @cached_property
    def ruled(self) -> tuple[tuple[int, int] | None, ...]:
        """For each variable under a depth rule, the rule's index and the dimension's position among the method's."""
        rules, seen = {rule.method: index for index, rule in enumerate(self.rules)}, dict.fromkeys(self.rules, 0)
        places: list[tuple[int, int] | None] = [None] * len(self.rules)
        for dimension in self.dimensions:
            index = rules.get(dimension.method)
            places.append(None if index is None else (index, seen[self.rules[index]]))
            if index is not None:
                seen[self.rules[index]] += 1
        return tuple(places)

    @cached_property
    def highs(self) -> tuple[int, ...]:
        """The largest value of each coordinate."""
        return tuple(variable.high for variable in self.variables)

    def bounds(self, point: Sequence[int], index: int) -> tuple[int, int]:
        """The least and the largest value of a coordinate, given the point's depths.

        Args:
            point: A point, whose depths count.
            index: The coordinate.
        """
        ruled, high = self.ruled[index], self.highs[index]
        if ruled is None:
            return 0, high
        rule, position = ruled
        return (1, high) if position < self.rules[rule].depths[point[rule]] else (0, 0)

    def settle(self, values: Sequence[int]) -> list[int]:
        """The point next to any values: within the ranges, sizes above 0 up to each rule's depth, 0 beyond it."""
        point = list(values)
        for index in range(len(point)):
            low, high = self.bounds(point, index)
            point[index] = min(max(point[index], low), high)
        return point

    @cached_property
    def _places(self) -> dict[tuple[str, int | None], str]:
        return {(dimension.method, dimension.block): dimension.name for dimension in self.dimensions}

    @cached_property
    def lowest(self) -> tuple[int, ...]:
        """The point of the smallest design."""
        return tuple(self.settle([0] * len(self.variables)))

    def at(self, point: Sequence[int]) -> Design:
        """The design of a point."""
        chosen = zip(self.dimensions, point[len(self.rules) :], strict=True)
        return Design(tuple(p for d, choice in chosen if (p := d.placements[choice]) is not None), self.backbone)

    def point(self, design: Design) -> tuple[int, ...]:
        """The point of a design.

        Raises:
            SpaceError: When the design is not in the space.
        """
        if self.backbone and design.backbone not in (None, self.backbone):
            raise SpaceError(f"the space is for {self.backbone}, but the design was made for {design.backbone}")
        placed = {(p.method, p.block): p for p in design.placements}
        for place in sorted(placed.keys() - self._places, key=str):
            name = place[0] if place[1] is None else f"{place[0]}.{place[1]}"
            raise SpaceError(f"the space has no {name}: {nearest(name, self._places.values())}")
        choices = []
        for dimension in self.dimensions:
            placement = placed.get((dimension.method, dimension.block))
            if placement not in dimension.placements:
                what = "absent" if placement is None else placement.to_dict()
                allowed = [p and p.to_dict() for p in dimension.placements]
                raise SpaceError(f"{dimension.name} is {what}, but the space allows {allowed} (None: absent)")
            choices.append(dimension.placements.index(placement))
        return self._point(choices)

    def _point(self, choices: Sequence[int]) -> tuple[int, ...]:
        """The point of choices, checked against the ranges and the depth rules."""
        if len(choices) != len(self.dimensions):
            raise SpaceError(f"choices are one per dimension, {len(self.dimensions)} in all, got {len(choices)}")
        for dimension, choice in zip(self.dimensions, choices, strict=True):
            if not 0 <= choice <= dimension.high:
                raise SpaceError(f"{dimension.name} has the choices 0 to {dimension.high}, got {choice}")
        depths = []
        for rule in self.rules:
            mine = [c > 0 for d, c in zip(self.dimensions, choices, strict=True) if d.method == rule.method]
            if sum(mine) not in rule.depths or not all(mine[: sum(mine)]):
                shown = "".join("x" if present else "-" for present in mine)
                raise SpaceError(f"{rule.name}: {rule.method} must fill its first d of {rule.depths} blocks: {shown}")
            depths.append(rule.depths.index(sum(mine)))
        return (*depths, *choices)

    def design(self, choices: Sequence[int]) -> Design:
        """The design of one size index per dimension.

        Raises:
            SpaceError: When the choices are out of range or break a depth rule.
        """
        return self.at(self._point(choices))

    def choices(self, design: Design) -> tuple[int, ...]:
        """The size index of each dimension: the inverse of `design`.

        Raises:
            SpaceError: When the design is not in the space.
        """
        return self.point(design)[len(self.rules) :]

    def __contains__(self, chosen: object) -> bool:
        """Whether the design may be chosen."""
        try:
            return isinstance(chosen, Design) and self.point(chosen) is not None
        except SpaceError:
            return False

    @property
    def smallest(self) -> Design:
        """The cheapest design, every size and depth at its least."""
        return self.at(self.lowest)

    @property
    def largest(self) -> Design:
        """The most expensive design, every size and depth at its largest."""
        return self.at(self.settle(self.highs))

    def count(self) -> int:
        """The exact number of designs, depth rules included."""
        total = prod(d.high + 1 for d, r in zip(self.dimensions, self.ruled[len(self.rules) :], strict=True) if not r)
        for rule in self.rules:
            highs = [d.high for d in self.dimensions if d.method == rule.method]
            total *= sum(prod(highs[:depth]) for depth in rule.depths)
        return total

    def check_budget(self, budget: Budget) -> None:
        """Makes sure that some design fits.

        Raises:
            SpaceError: When not even the smallest design does, naming the least limit that would.
        """
        for limit in budget.further:
            if (least := limit.cost(self.smallest)) > limit.most:
                raise SpaceError(
                    f"no design fits budget.{limit.name} = {limit.most:g}: its smallest needs {least:.4g}; "
                    f"raise budget.{limit.name} above that, or allow smaller sizes"
                )
        if not budget.allows(self.smallest):
            least = budget.cost(self.smallest) if budget.cost else 0
            raise SpaceError(
                f"no design of the space fits a budget of {budget.limit}: its smallest needs {least}; "
                f"raise the limit to at least {least}, or allow smaller sizes"
            )


def check_names(names: Sequence[str]) -> None:
    """Makes sure that no two parameters of a trial would have the same name.

    Raises:
        SpaceError: When two do.
    """
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SpaceError(f"each choice of a space needs its own name, got {sorted(twice)[0]!r} twice")
