"""Recipes: candidates that scale with the backbone, the budget and the run's own learning rate. Torch-free."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from petlas.petl.design import Design
from petlas.petl.methods import get_method
from petlas.spaces import Budget, Candidate, Dimension, Space
from petlas.spaces.draw import placed
from petlas.spaces.vary import fit_design

PORTFOLIO = "portfolio.yaml"
"""The file of the recipes, beside this one."""
_RATES = (3.0, 1.0, 0.3)

LR = "lr"
"""The setting that a recipe gives as a factor of the run's own; the others it gives as they are."""


@dataclass(frozen=True)
class Recipe:
    """A candidate of any space that has its methods: each method alike at all its places, as large as its share.

    Where sizes are coarse, what is left of the share makes the last blocks larger by one size.

    Args:
        shares: For each method, the part of the parameter budget that it may use up; nothing is linear probing.
        settings: Of the candidate, such as `lr`.
    """

    shares: tuple[tuple[str, float], ...]
    settings: tuple[tuple[str, float], ...] = ((LR, 1.0),)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe of plain data such as `{methods: {lora: 1.0}, settings: {lr: 3}}`."""
        shares, settings = data.get("methods") or {}, data.get("settings") or {}
        return cls(tuple(shares.items()), tuple((name, float(value)) for name, value in settings.items()))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data: the inverse of `from_dict`."""
        return {"methods": dict(self.shares), "settings": dict(self.settings)}

    @property
    def methods(self) -> frozenset[str]:
        """The methods that are placed."""
        return frozenset(method for method, _ in self.shares)

    def suits(self, space: Space) -> bool:
        """Whether a space has what the recipe places."""
        return self.methods <= {dimension.method for dimension in space.dimensions}

    def candidate(self, space: Space, budget: Budget, usual: Mapping[str, float]) -> Candidate:
        """The recipe's candidate in a space, within the budget; settings are brought to the next that the space allows.

        Args:
            space: It has the recipe's methods.
            budget: The hard budget.
            usual: The run's own value of each setting of the space.

        Raises:
            SpaceError: When no design of the space fits the budget.
        """
        wanted = dict(usual) | {name: value * usual[LR] if name == LR else value for name, value in self.settings}
        settings = tuple((s.name, s.nearest(wanted[s.name])) for s in space.settings)
        return Candidate(self.design(space, budget), settings)

    def design(self, space: Space, budget: Budget) -> Design:
        """The design alone.

        Args:
            space: It has the recipe's methods.
            budget: The hard budget.

        Raises:
            SpaceError: When no design of the space fits the budget.
        """
        space.check_budget(budget)
        point: Sequence[int] = space.lowest
        for method, share in self.shares:
            part = budget
            if budget.limit is not None and budget.cost is not None:
                spent = budget.cost(space.at(point))
                part = replace(budget, limit=min(budget.limit, spent + int(share * budget.limit)))
            point = _filled(space, point, method, part)
        return space.at(point)


def portfolio(space: Space, backbone: str = "") -> Iterator[Recipe]:
    """The recipes that are strong across tasks, the most useful first, and then every method of a space on its own.

    They were chosen by `benchmarks/portfolio/choose.py` among recorded runs: those on the backbone, if there are any,
    else all.

    Args:
        space: Whose methods are to be covered.
        backbone: Its name.
    """
    own = shipped()["backbones"].get(backbone, shipped())
    yield from map(Recipe.from_dict, own["recipes"])
    for rate in _RATES:
        for method in dict.fromkeys(dimension.method for dimension in space.dimensions):
            yield Recipe(((method, 1.0),), ((LR, rate),))


def linear() -> Recipe:
    """Linear probing at the rate that was best for it in the recorded runs; its design need not be in the space."""
    return Recipe.from_dict(shipped()["linear"])


@cache
def shipped() -> dict[str, Any]:
    """The file of the recipes, as plain data."""
    file = resources.files("petlas.search.strategies").joinpath(PORTFOLIO)
    data: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return data


def _filled(space: Space, point: Sequence[int], method: str, budget: Budget) -> Sequence[int]:
    """The point with a method at all its places: of the largest size that fits, or without a limit of its usual one."""
    sizes = sorted({s for d in space.dimensions if d.method == method for s in d.sizes if s}, reverse=True)
    usual = get_method(method).default_size
    if budget.limit is None and not budget.further and usual is not None:
        sizes = [min(sizes, key=lambda size: (abs(size - usual), size))]
    for size in sizes:
        larger = _at_size(space, point, method, size)
        if budget.allows(space.at(larger)):
            return _raised(space, larger, method, budget)
    least = _at_size(space, point, method, sizes[-1])
    params = dict(zip((variable.name for variable in space.variables), least, strict=True))
    return space.point(fit_design(space, params, np.random.default_rng(0), budget))  # not at all places, then


def _raised(space: Space, point: Sequence[int], method: str, budget: Budget) -> Sequence[int]:
    """The point with a method a size larger in single blocks, from the last one on, as far as a budget allows."""
    if budget.limit is None and not budget.further:
        return point
    for index, variable in reversed([*enumerate(space.variables)]):
        if isinstance(variable, Dimension) and variable.method == method and 0 < point[index] < variable.high:
            larger = placed(space, point, index, point[index] + 1)
            point = larger if budget.allows(space.at(larger)) else point
    return point


def _at_size(space: Space, point: Sequence[int], method: str, size: int) -> list[int]:
    """The point with a method of that size, or the next below it, at all its places."""
    values = list(point)
    for index, variable in enumerate(space.variables):
        if variable.method == method:
            sizes = variable.sizes if isinstance(variable, Dimension) else ()
            values[index] = max(0, bisect_right(sizes, size) - 1) if sizes else variable.high
    return space.settle(values)
