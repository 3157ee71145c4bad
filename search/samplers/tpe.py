"""TPE (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011): sizes and settings learned jointly."""

from __future__ import annotations

from functools import partial

from optuna.samplers import TPESampler

from petlas.search.samplers.feasible import FeasibleSampler
from petlas.spaces import Budget, Space


class TPE(FeasibleSampler):
    """Optuna's TPE, within the budget and without repetitions.

    It needs a `LearningStudy` where a study has several objectives and pruned trials with intermediate values.

    Args:
        space: The space.
        budget: The hard budget.
        seed: The seed.
        startup: Trials that are drawn at random first.

    Raises:
        SpaceError: When no design of the space fits the budget.
    """

    def __init__(self, space: Space, budget: Budget, seed: int, startup: int = 10) -> None:
        super().__init__(partial(TPESampler, n_startup_trials=startup), space, budget, seed)
