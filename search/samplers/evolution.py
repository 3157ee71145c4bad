"""Evolution of candidates as in NOAH (Zhang, Zhou & Liu, "Neural Prompt Search", 2022)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from petlas.search.samplers.feasible import FeasibleSampler, number_of
from petlas.spaces import Budget, Candidate, CrossoverUnit, Space, SpaceError

_TRIES = 10  # NOAH's, for each child.


@dataclass(frozen=True)
class Evolution:
    """How candidates evolve. The numbers are NOAH's by default, crossover and mutation are not.

    With each size from either parent, and mutation from a random block on, designs share their first blocks with
    earlier ones, whose activations are kept: 45% of all blocks against 19% with NOAH's own (`NOAH`), at no measured
    loss of quality in simulations on NOAH's space.

    Generation 0 is a population of random designs. Each later generation has as many: first the mutants, then the
    children of two, then random designs for what is left.

    Args:
        population: Designs of a generation.
        parents: The best designs of all earlier generations, which are varied.
        mutations: Mutants of one parent in a generation.
        crossovers: Children of two parents in a generation.
        probability: The probability that mutation moves a size or a setting.
        depth_probability: The probability that it moves a depth, where the space has a depth rule.
        by: What crossover takes from one parent as a whole, see `Space.crossover`; NOAH's is `method`.
        late: Whether mutation leaves the blocks before a random one alone, see `Space.mutate`; not so in NOAH.

    Raises:
        SpaceError: When a value is out of its range.
    """

    population: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    probability: float = 0.2
    depth_probability: float = 0.4
    by: CrossoverUnit = "dimension"
    late: bool = True

    def __post_init__(self) -> None:
        for name, least in (("population", 1), ("parents", 1), ("mutations", 0), ("crossovers", 0)):
            if getattr(self, name) < least:
                raise SpaceError(f"{name} must be at least {least}, got {name}={getattr(self, name)}")
        for name in ("probability", "depth_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpaceError(f"{name} must be from 0 to 1, got {name}={getattr(self, name)}")
        if self.mutations + self.crossovers > self.population:
            raise SpaceError(
                f"a population of {self.population} has no room for mutations={self.mutations} and "
                f"crossovers={self.crossovers}; enlarge it, or lower them"
            )
        if self.by not in get_args(CrossoverUnit):
            raise SpaceError(f"crossover is by one of {', '.join(get_args(CrossoverUnit))}, got by={self.by!r}")


NOAH = Evolution(by="method", late=False)
"""NOAH's settings."""


class EvolutionSampler(FeasibleSampler):
    """NOAH's evolution, with the guarantees of `FeasibleSampler`: within the budget, and no candidate twice.

    A trial's place is its number (see `FeasibleSampler`); it says which generation the trial belongs to and
    how its candidate comes about. The parents are the best complete trials of earlier generations: by the first
    objective, equal ones by the next (fewer parameters), then the first come. Where trials of earlier generations are
    still running, those that are finished will do: nothing waits. Failed and pruned trials keep their places but are
    no parents. A candidate that was seen is varied anew a few times; then, and also where parents are missing, a random
    one takes the place.

    Unlike in NOAH's code, sizes mutate too, the last generation counts, a budget that no design fits is refused at
    once, and an interrupted search proposes what it would have proposed: from the seed, the place and the trials.
    Settings, which NOAH does not search, mutate and are inherited with the sizes.

    Args:
        space: The space; the objective chooses its candidate by `space.suggest(trial, budget)`.
        budget: The hard budget.
        seed: The seed.
        evolution: How candidates evolve.
        **settings: The same one by one, instead.

    Raises:
        SpaceError: When a value is out of its range, or no design of the space fits the budget.
    """

    def __init__(
        self, space: Space, budget: Budget, seed: int, evolution: Evolution = Evolution(), **settings: Any
    ) -> None:
        super().__init__(RandomSampler, space, budget, seed)  # Random for parameters that are not the space's.
        self._evolution = replace(evolution, **settings)

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Candidate | None:
        """A child of the best, or a random candidate, by the trial's place.

        Args:
            study: The study.
            trial: The trial.
            search_space: Not needed.
        """
        number = number_of(trial)
        others = [entry for entry in self.trials(study) if entry.number != number]
        seen = {key for entry in others for key in entry.keys}
        generation, place = divmod(number, self._evolution.population)
        ranked = [
            (entry.losses, entry.number, entry.candidate)
            for entry in others
            if entry.number < generation * self._evolution.population
            if entry.losses is not None and entry.candidate is not None
        ]
        parents = [candidate for *_, candidate in heapq.nsmallest(self._evolution.parents, ranked)]
        rng = self.rng(number)
        for _ in range(_TRIES):
            child = self._child(place, parents, rng)
            if child.key not in seen:
                return child
        stranger = self.space.sample(rng, self.budget)
        return self.space.project(self.space.params(stranger), rng, self.budget, seen)

    def _child(self, place: int, parents: list[Candidate], rng: np.random.Generator) -> Candidate:
        """A candidate for a place of a generation, within the budget."""
        space, budget, evolution = self.space, self.budget, self._evolution
        if parents and place < evolution.mutations:
            parent = parents[rng.integers(len(parents))]
            return space.mutate(
                parent,
                rng,
                budget,
                probability=evolution.probability,
                depth_probability=evolution.depth_probability,
                late=evolution.late,
            )
        if len(parents) > 1 and 0 <= place - evolution.mutations < evolution.crossovers:
            a, b = rng.choice(len(parents), size=2, replace=False)
            return space.crossover(parents[a], parents[b], rng, budget, by=evolution.by)
        return space.sample(rng, budget)
