"""Optuna samplers that propose only designs within the hard budget, and none twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseGASampler, BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from petlas.spaces import Budget, Space, SpaceError

_POPULATION = 20  # NSGA-II's; Optuna's own 50 is more trials than most searches of designs train.


class SpaceExhausted(RuntimeError):
    """Every design of the space within the budget is already in the study: there is nothing left to propose."""


class _FirstObjective(Study):
    """A view of a study that, asked for its one direction, gives that of its first objective."""

    @property
    def direction(self) -> StudyDirection:
        return self.directions[0]


class PrunedAwareTPE(TPESampler):
    """TPE for studies of several objectives with pruned trials.

    TPE ranks pruned trials behind the complete ones, by how far they came and by their last intermediate value. It
    compares those along *the* direction of the study; Optuna's own raises there if the study has several. Here
    intermediate values are of the first objective. The arguments are those of `optuna.samplers.TPESampler`.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a search space, sampled jointly; nothing before TPE's startup trials are done."""
        return super().sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter on its own."""
        return super().sample_independent(self._view(study), trial, param_name, param_distribution)

    @staticmethod
    def _view(study: Study) -> Study:
        return _FirstObjective(study.study_name, study._storage, study.sampler, study.pruner)


class FeasibleSampler(BaseSampler):
    """Turns any Optuna sampler into one that proposes designs of a space within its budget, none of them twice.

    What the base sampler proposes is projected to the nearest design that fits and is not in the study yet; where it
    proposes nothing (in its startup, or because it samples parameters one by one), a design is drawn from the space.
    Other parameters of the trial, such as a learning rate, are the base sampler's own.

    Proposals depend on the seed, the trial's number and the study's trials only, not on what this object did before:
    a search that was interrupted and goes on proposes what it would have proposed.

    Args:
        base: Makes the base sampler from a `seed` keyword: its class, or a `functools.partial` of it.
        space: The space; the objective chooses its design by `space.suggest(trial, budget)`.
        budget: The hard budget.
        seed: The seed.

    Raises:
        SpaceError: When no design of the space fits the budget.
    """

    def __init__(self, base: Callable[..., BaseSampler], space: Space, budget: Budget, seed: int) -> None:
        space.check_budget(budget)
        self._make, self._space, self._budget, self._seed = base, space, budget, seed
        self._keys: dict[tuple[int, ...], str] = {}

    def _base(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        """The base sampler, seeded for one trial and one parameter of it."""
        return self._make(seed=int(self._seeds(trial, name).generate_state(1)[0]))

    def _seeds(self, trial: FrozenTrial, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._seed, trial.number, crc32(name.encode())])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The full range of every parameter of the space that leaves a choice."""
        ranges = self._space.distributions().items()
        return {name: IntDistribution(low, high) for name, (low, high) in ranges if low < high}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a design within the budget that no trial of the study has.

        Raises:
            SpaceExhausted: When there is none left.
        """
        if search_space.keys() <= trial.params.keys():  # Enqueued: the design is chosen already.
            return {}
        rng = np.random.default_rng(self._seeds(trial, "design"))
        params = self._base(trial).sample_relative(study, trial, search_space)
        if not params:
            params = self._space.params(self._space.sample(rng, self._budget))
        design = self._space.project(params, rng, self._budget, self.seen(study, trial))
        if design is None:
            raise SpaceExhausted(self._nothing_left(study))
        chosen = self._space.params(design)
        return {name: chosen[name] for name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is not the space's, or whose proposal does not fit what was enqueued for the others."""
        return self._base(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def seen(self, study: Study, trial: FrozenTrial | None = None) -> set[str]:
        """The keys of the designs in a study: its trials' user attribute `key`, and the designs of their parameters.

        Args:
            study: The study.
            trial: A trial that does not count; nor do trials whose user attribute `interrupted` is true.
        """
        keys: set[str] = set()
        for other in study.get_trials(deepcopy=False):
            if other.user_attrs.get("interrupted") or (trial is not None and other.number == trial.number):
                continue
            keys |= {key for key in (other.user_attrs.get("key"), self._key(other)) if key is not None}
        return keys

    def _key(self, trial: FrozenTrial) -> str | None:
        """The key of a trial's parameters; None while they are incomplete or where the space has no such design."""
        names = self._space.distributions()
        if not names.keys() <= trial.params.keys():
            return None
        point = tuple(trial.params[name] for name in names)
        if point not in self._keys:
            try:
                self._keys[point] = self._space.design(point[len(self._space.rules) :]).key
            except SpaceError:
                return None
        return self._keys[point]

    def exhausted(self, study: Study) -> bool:
        """Whether the study has every design of the space within the budget: to be asked before the next trial."""
        seen = self.seen(study)
        return all(design.key in seen for design in self._space.designs(self._budget))

    def _nothing_left(self, study: Study) -> str:
        within = "" if self._budget.limit is None else f" within the budget of {self._budget.limit}"
        return (
            f"all designs of the space{within} are in the study {study.study_name!r} already; "
            "end the search, or widen the space or the budget"
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Called before each trial."""
        self._base(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Called after each trial; a genetic base counts designs that were enqueued into its population too."""
        base = self._base(trial)
        if isinstance(base, BaseGASampler) and self._space.distributions().keys() <= trial.params.keys():
            base.get_trial_generation(study, trial)
        base.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing to do: each trial has its own random numbers, on whichever worker it runs."""


def make_sampler(name: Literal["tpe", "nsga2", "random"], space: Space, budget: Budget, seed: int) -> FeasibleSampler:
    """The sampler of a search.

    Args:
        name: `tpe`, `nsga2` or `random`.
        space: The space.
        budget: The hard budget.
        seed: The seed.

    Raises:
        SpaceError: When the name is unknown, or no design of the space fits the budget.
    """
    makers: dict[str, Callable[..., BaseSampler]] = {
        "tpe": PrunedAwareTPE,
        "nsga2": partial(NSGAIISampler, population_size=_POPULATION),
        "random": RandomSampler,
    }
    if name not in makers:
        raise SpaceError(f"a sampler is one of {', '.join(makers)}, got {name!r}")
    return FeasibleSampler(makers[name], space, budget, seed)
