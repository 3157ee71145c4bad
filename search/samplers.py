"""Optuna samplers that propose only designs within the hard budget, and none twice."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseGASampler, BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from petlas.petl.design import Design
from petlas.spaces import Budget, Space, SpaceError

_POPULATION = 20  # NSGA-II's; Optuna's own 50 is more trials than most searches of designs train.


class SpaceExhausted(RuntimeError):
    """Every design of the space within the budget is already in the study: there is nothing left to propose."""


class _StudyView(Study):
    """A view of a study: the trials of one stage; and, asked for its one direction, that of its first objective.

    Args:
        study: The study, or a view of it.
        stage: The user attribute `stage` of the trials to show; None shows all.
    """

    def __init__(self, study: Study, stage: str | None = None) -> None:
        vars(self).update(vars(study))  # Study.__init__ would ask the storage for the study again.
        self._viewed, self._stage = study, stage

    @property
    def direction(self) -> StudyDirection:
        return self.directions[0]

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._viewed._get_trials(deepcopy, states, use_cache)
        return trials if self._stage is None else [t for t in trials if t.user_attrs.get("stage") == self._stage]


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
        return super().sample_relative(_StudyView(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter on its own."""
        return super().sample_independent(_StudyView(study), trial, param_name, param_distribution)


class _Entry(NamedTuple):
    """What a sampler knows of a trial: read once, since the attributes of a `FrozenTrial` are slow."""

    trial: FrozenTrial
    number: int
    losses: list[float] | None
    """The values of a complete trial, those that are maximized with their signs changed."""
    counts: bool
    """Whether it is of the sampler's stage, and was not interrupted."""
    design: Design | None
    """The design of its parameters, where the space has it."""
    keys: set[str]
    """The names its design goes by."""


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
        stage: The only trials of a study that count, by their user attribute `stage`, which a trial should get before
            its design; None counts all.

    Raises:
        SpaceError: When no design of the space fits the budget.
    """

    def __init__(
        self, base: Callable[..., BaseSampler], space: Space, budget: Budget, seed: int, stage: str | None = None
    ) -> None:
        space.check_budget(budget)
        self._make, self._space, self._budget, self._seed, self._stage = base, space, budget, seed, stage
        self._finished: dict[int, _Entry] = {}

    def _base(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        """The base sampler, seeded for one trial and one parameter of it."""
        return self._make(seed=int(self._seeds(trial.number, name).generate_state(1)[0]))

    def _seeds(self, number: int, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._seed, number, crc32(name.encode())])

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
        design = self._propose(study, trial, search_space)
        if design is None:
            raise SpaceExhausted(self._nothing_left(study))
        chosen = self._space.params(design)
        return {name: chosen[name] for name in search_space}

    def _propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Design | None:
        """A design within the budget that was not seen; None when there is none left."""
        rng = np.random.default_rng(self._seeds(trial.number, "design"))
        params = self._base(trial).sample_relative(_StudyView(study, self._stage), trial, search_space)
        if not params:
            params = self._space.params(self._space.sample(rng, self._budget))
        return self._space.project(params, rng, self._budget, self.seen(study, trial))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is not the space's, or whose proposal does not fit what was enqueued for the others."""
        view = _StudyView(study, self._stage)
        return self._base(trial, param_name).sample_independent(view, trial, param_name, param_distribution)

    def seen(self, study: Study, trial: FrozenTrial | None = None) -> set[str]:
        """The keys of the designs in a study: its trials' user attribute `key`, and the designs of their parameters.

        Args:
            study: The study.
            trial: A trial that does not count; nor do those of other stages, nor those whose user attribute
                `interrupted` is true.
        """
        own = None if trial is None else trial.number
        return {key for entry in self._entries(study) if entry.number != own for key in entry.keys}

    def _entries(self, study: Study) -> list[_Entry]:
        """The trials that count, by number."""
        entries = []
        for trial in study.get_trials(deepcopy=False):
            entry = self._finished.get(trial.number)
            if entry is None or entry.trial is not trial:  # Finished trials do not change: most are the same objects.
                entry = self._entry(study, trial)
                if trial.state.is_finished():
                    self._finished[trial.number] = entry
            if entry.counts:
                entries.append(entry)
        return entries

    def _entry(self, study: Study, trial: FrozenTrial) -> _Entry:
        attributes, params = trial.user_attrs, trial.params
        counts = self._stage in (None, attributes.get("stage")) and not attributes.get("interrupted")
        try:
            design = self._space.design([params[dimension.name] for dimension in self._space.dimensions])
        except (KeyError, SpaceError):  # Incomplete so far, or of another space.
            design = None
        keys = {attributes["key"]} if "key" in attributes else set()
        keys |= set() if design is None else {design.key}
        losses = None
        if trial.state is TrialState.COMPLETE:
            pairs = zip(study.directions, trial.values, strict=True)
            losses = [-value if direction is StudyDirection.MAXIMIZE else value for direction, value in pairs]
        return _Entry(trial, trial.number, losses, counts, design, keys)

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
        self._base(trial).before_trial(_StudyView(study, self._stage), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Called after each trial; a genetic base counts designs that were enqueued into its population too."""
        if self._stage not in (None, trial.user_attrs.get("stage")):
            return
        base, view = self._base(trial), _StudyView(study, self._stage)
        if isinstance(base, BaseGASampler) and self._space.distributions().keys() <= trial.params.keys():
            base.get_trial_generation(view, trial)
        base.after_trial(view, trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing to do: each trial has its own random numbers, on whichever worker it runs."""


def make_sampler(
    name: Literal["tpe", "nsga2", "random"],
    space: Space,
    budget: Budget,
    seed: int,
    stage: str | None = None,
) -> FeasibleSampler:
    """The sampler of a search.

    Args:
        name: `tpe`, `nsga2` or `random`.
        space: The space.
        budget: The hard budget.
        seed: The seed.
        stage: The only trials of a study that count, by their user attribute `stage`; None counts all.

    Raises:
        SpaceError: When the name is unknown, or no design of the space fits the budget.
    """
    # Optuna names what a genetic sampler keeps in a study after its class: stages must not share it.
    nsga2 = NSGAIISampler if stage is None else type(f"NSGAIISampler.{stage}", (NSGAIISampler,), {})
    bases: dict[str, Callable[..., BaseSampler]] = {
        "tpe": PrunedAwareTPE,
        "nsga2": partial(nsga2, population_size=_POPULATION),
        "random": RandomSampler,
    }
    if name not in bases:
        raise SpaceError(f"a sampler is one of {', '.join(bases)}, got {name!r}")
    return FeasibleSampler(bases[name], space, budget, seed, stage)
