"""What all samplers have in common: candidates within the hard budget, and none twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from petlas.spaces import Budget, Candidate, Range, Space

NUMBER = "number"
"""The user attribute that numbers a trial where its study is a part of a longer one."""


class SpaceExhausted(RuntimeError):
    """Every candidate of the space within the budget is already in the study: there is nothing left to propose."""


class SeenTrial(NamedTuple):
    """What a sampler knows of a trial: read once, since the attributes of a `FrozenTrial` are slow."""

    trial: FrozenTrial
    number: int
    """See `number_of`."""
    losses: list[float] | None
    """The values of a complete trial, those that are maximized with their signs changed."""
    candidate: Candidate | None
    """The candidate of its parameters, where the space has it."""
    keys: set[str]
    """The names its candidate goes by."""


class FeasibleSampler(BaseSampler):
    """Turns any Optuna sampler into one that proposes candidates of a space within its budget, none of them twice.

    What the base sampler proposes is projected to the nearest candidate that fits and is not in the study yet; where
    it proposes nothing (in its startup, or because it samples parameters one by one), one is drawn from the space.
    Other parameters of the trial are the base sampler's own.

    Proposals depend on the seed, the trial's number and the study's trials only, not on what this object did before:
    a search that was interrupted and goes on proposes what it would have proposed. A study that holds a part of a
    longer one's trials tells the longer one's numbers by the user attribute `number`, set before the first parameter.

    Args:
        base: Makes the base sampler from a `seed` keyword: its class, or a `functools.partial` of it.
        space: The space; the objective chooses its candidate by `space.suggest(trial, budget)`.
        budget: The hard budget.
        seed: The seed.

    Raises:
        SpaceError: When no design of the space fits the budget.
    """

    def __init__(self, base: Callable[..., BaseSampler], space: Space, budget: Budget, seed: int) -> None:
        space.check_budget(budget)
        self.space, self.budget = space, budget
        self._make, self._seed = base, seed
        self._finished: dict[int, SeenTrial] = {}

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Candidate | None:
        """A candidate within the budget that was not seen.

        A sampler of designs overrides this; what it returns must be new and fit, as `Space.project` sees to.

        Args:
            study: The study.
            trial: The trial, which does not count as seen.
            search_space: The space's parameters that leave a choice.

        Returns:
            The candidate; None when there is none left.
        """
        rng = self.rng(number_of(trial))
        params = self._base(trial).sample_relative(study, trial, search_space)
        if not params:
            params = self.space.params(self.space.sample(rng, self.budget))
        return self.space.project(params, rng, self.budget, self.seen(study, trial))

    def rng(self, number: int) -> np.random.Generator:
        """The random numbers that the trial of a number gets its candidate by."""
        return np.random.default_rng(self._seeds(number, "design"))

    def _seeds(self, number: int, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._seed, number, crc32(name.encode())])

    def seen(self, study: Study, trial: FrozenTrial | None = None) -> set[str]:
        """The keys of the candidates in a study: its trials' user attribute `key`, and those of their parameters.

        Args:
            study: The study.
            trial: A trial that does not count.
        """
        own = None if trial is None else number_of(trial)
        return {key for entry in self.trials(study) if entry.number != own for key in entry.keys}

    def trials(self, study: Study) -> list[SeenTrial]:
        """A study's trials, by number."""
        found = []
        for trial in study.get_trials(deepcopy=False):
            entry = self._finished.get(trial.number)
            if entry is None or entry.trial is not trial:  # Finished trials do not change: most are the same objects.
                entry = self._look(study, trial)
                if trial.state.is_finished():
                    self._finished[trial.number] = entry
            found.append(entry)
        return found

    def _look(self, study: Study, trial: FrozenTrial) -> SeenTrial:
        attributes, candidate = trial.user_attrs, self._candidate(trial.params)
        keys = {attributes["key"]} if "key" in attributes else set()
        keys |= set() if candidate is None else {candidate.key}
        losses = None
        if trial.state is TrialState.COMPLETE:
            pairs = zip(study.directions, trial.values, strict=True)
            losses = [-value if direction is StudyDirection.MAXIMIZE else value for direction, value in pairs]
        return SeenTrial(trial, number_of(trial), losses, candidate, keys)

    def _candidate(self, params: Mapping[str, Any]) -> Candidate | None:
        """The candidate of exactly these parameters; None if they are incomplete so far, or of another space."""
        own = {name: params[name] for name in self.space.distributions() if name in params}
        candidate = self.space.of_params(own)
        return candidate if self.space.params(candidate) == own else None

    def exhausted(self, study: Study) -> bool:
        """Whether the study has every candidate within the budget: to be asked before the next trial.

        It never has where a setting has a continuous range.
        """
        if not self.space.finite:
            return False
        seen = self.seen(study)
        return all(candidate.key in seen for candidate in self.space.candidates(self.budget))

    def _base(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        """The base sampler, seeded for one trial and one parameter of it."""
        return self._make(seed=int(self._seeds(number_of(trial), name).generate_state(1)[0]))

    # What Optuna asks for

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The full range of every parameter of the space that leaves a choice.

        Args:
            study: The study.
            trial: The trial.
        """
        return {name: ends for name, ends in distributions(self.space).items() if not ends.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a candidate within the budget that no trial of the study has.

        Args:
            study: The study.
            trial: The trial.
            search_space: Of `infer_relative_search_space`.

        Raises:
            SpaceExhausted: When there is none left.
        """
        if search_space.keys() <= trial.params.keys():  # Enqueued: the candidate is chosen already.
            return {}
        candidate = self.propose(study, trial, search_space)
        if candidate is None:
            within = "" if self.budget.limit is None else f" within the budget of {self.budget.limit}"
            raise SpaceExhausted(
                f"all candidates of the space{within} are in the study {study.study_name!r} already; "
                "end the search, or widen the space or the budget"
            )
        chosen = self.space.params(candidate)
        return {name: chosen[name] for name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is not the space's, or whose proposal does not fit what was enqueued for the others.

        Args:
            study: The study.
            trial: The trial.
            param_name: The parameter.
            param_distribution: Its range.
        """
        return self._base(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Called before each trial.

        Args:
            study: The study.
            trial: The trial.
        """
        self._base(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Called after each trial; a genetic base counts candidates that were enqueued into its population too.

        Args:
            study: The study.
            trial: The trial.
            state: How it ended.
            values: Of each objective, if it is complete.
        """
        base = self._base(trial)
        if isinstance(base, BaseGASampler) and self.space.distributions().keys() <= trial.params.keys():
            base.get_trial_generation(study, trial)
        base.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing to do: each trial has its own random numbers, on whichever worker it runs."""


def number_of(trial: FrozenTrial) -> int:
    """The number that a trial's random numbers come from: its user attribute `number`, or its own."""
    number: int = trial.user_attrs.get(NUMBER, trial.number)
    return number


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The Optuna distributions of a space's parameters, in their full ranges."""
    found: dict[str, BaseDistribution] = {v.name: IntDistribution(0, v.high) for v in space.variables}
    for setting in space.settings:
        if isinstance(setting, Range):
            found[setting.name] = FloatDistribution(setting.low, setting.high, log=setting.log)
        else:
            found[setting.name] = IntDistribution(0, int(setting.ends[1]))
    return found
