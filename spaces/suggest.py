"""Choosing a design through an Optuna trial, with any sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petlas.petl.design import Design
from petlas.spaces.budget import Budget
from petlas.spaces.design_space import DesignSpace
from petlas.spaces.draw import largest, placed
from petlas.spaces.errors import SpaceError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def suggest_design(space: DesignSpace, trial: BaseTrial, budget: Budget) -> Design:
    """The design that an Optuna trial chooses, within the budget whatever the sampler.

    Every parameter is the index of a size or depth, and its range ends where the parameters still to come would fit
    only at their smallest. All parameters are always suggested: those beyond a depth have the range 0 to 0. Depths
    come first; otherwise the order is shuffled by the trial's number, so that no block is first at the budget.

    Args:
        space: The designs.
        trial: A trial, or a `FixedTrial` of `params`.
        budget: The hard budget.

    Raises:
        SpaceError: When no design fits the budget, or a fixed parameter of the trial does not.
    """
    space.check_budget(budget)
    rng, depths = np.random.default_rng(trial.number), len(space.rules)
    order = [*rng.permutation(depths), *(depths + rng.permutation(len(space.dimensions)))]
    point: list[int] = list(space.lowest)
    for index in map(int, order):
        name = space.variables[index].name
        low, high = space.bounds(point, index)[0], largest(space, point, index, budget)
        value = trial.suggest_int(name, low, high)
        if not low <= value <= high:
            raise SpaceError(
                f"{name}={value} does not fit the space and the budget here; choose from {low} to {high}, or enqueue "
                f"the parameters of a design within the budget of {budget.limit}"
            )
        point = placed(space, point, index, value)
    return space.at(point)
