"""The samplers that draw candidates for a search. To add one: write its file, and add its line here.

A sampler is a `feasible.FeasibleSampler` that is made from a space, a budget, a seed, and its own settings as keywords.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from petlas.lazy import look_up
from petlas.spaces import Budget, Space, SpaceError

if TYPE_CHECKING:
    from petlas.search.samplers.feasible import FeasibleSampler

SAMPLERS: dict[str, str] = {
    "tpe": "petlas.search.samplers.tpe:TPE",
    "nsga2": "petlas.search.samplers.nsga2:NSGA2",
    "random": "petlas.search.samplers.random:Random",
    "evolution": "petlas.search.samplers.evolution:EvolutionSampler",
}


def make_sampler(
    name: str, space: Space, budget: Budget, seed: int, settings: Mapping[str, Any] | None = None
) -> FeasibleSampler:
    """The sampler of a search; its file is imported here.

    Args:
        name: One of `SAMPLERS`.
        space: The space.
        budget: The hard budget.
        seed: The seed.
        settings: The sampler's own settings.

    Raises:
        SpaceError: When the name is unknown, a setting is out of its range, or no design of the space fits the budget.
    """
    if name not in SAMPLERS:
        raise SpaceError(f"a sampler is one of {', '.join(SAMPLERS)}, got {name!r}")
    sampler: FeasibleSampler = look_up(SAMPLERS[name])(space, budget, seed, **(settings or {}))
    return sampler


__all__ = ["SAMPLERS", "make_sampler"]
