"""NSGA-II (Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002)."""

from __future__ import annotations

from functools import partial

from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from petlas.search.samplers.feasible import FeasibleSampler
from petlas.spaces import Budget, Space

GENERATION = "Generations:generation"
"""The system attribute in which Optuna keeps a trial's generation, by the name of the class."""


class Generations(NSGAIISampler):
    """Optuna's NSGA-II with parents in an order that depends on the study's trials alone.

    Optuna gives the first trial of a generation its parents as they were selected and the others theirs by number, and
    tells them apart by a cache, which a study that is filled anew does not have.
    """

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation.

        Args:
            study: The study.
            generation: Its number, from 0.
        """
        parents = super().get_parent_population(study, generation)
        members = sum(t.system_attrs.get(GENERATION) == generation for t in study.get_trials(deepcopy=False))
        return sorted(parents, key=lambda trial: trial.number) if members > 1 else parents


class NSGA2(FeasibleSampler):
    """Optuna's NSGA-II, within the budget and without repetitions.

    It keeps the generation of each trial in the trial's system attributes: a study that is filled anew needs them.

    Args:
        space: The space.
        budget: The hard budget.
        seed: The seed.
        population: Trials of a generation; Optuna's own 50 is more than most searches train.

    Raises:
        SpaceError: When no design of the space fits the budget.
    """

    def __init__(self, space: Space, budget: Budget, seed: int, population: int = 20) -> None:
        super().__init__(partial(Generations, population_size=population), space, budget, seed)
