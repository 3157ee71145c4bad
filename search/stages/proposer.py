"""Drawing candidates by an Optuna sampler that learns from the trials of one stage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from petlas.search.samplers.feasible import NUMBER, FeasibleSampler, number_of
from petlas.search.samplers.learning import LearningStudy
from petlas.spaces import Budget, Candidate, Space

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Draw:
    """A candidate, and how a sampler came to it.

    Args:
        candidate: What is to be tried.
        place: Its trial in the study that the sampler learns from; None where no sampler learns from it.
        number: Which draw it is, from 0: what is drawn depends on it. None as above.
        parameters: Its Optuna parameters.
        distributions: Their ranges.
        system: What the sampler keeps with it.
    """

    candidate: Candidate
    place: int | None = None
    number: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)


class Proposer:
    """Draws candidates within the budget, none twice.

    The sampler learns from an Optuna study in memory that holds the trials of its stage alone, without those that were
    cut off. What it draws depends on the seed, on these trials and on the draw's number only, and the next number is
    the first that is missing: a search that was interrupted and goes on draws what it would have drawn, also where
    later draws had begun before earlier ones. And asking costs no transactions.

    Args:
        sampler: The sampler.
        space: What may be drawn.
        budget: The hard budget.
        directions: Of the study's objectives.
    """

    def __init__(self, sampler: FeasibleSampler, space: Space, budget: Budget, directions: Sequence[Direction]) -> None:
        self._space, self._budget = space, budget
        self._sampler = sampler
        self._study = LearningStudy(directions, sampler)
        self._numbers: set[int] = set()

    def learn(self, trials: Iterable[FrozenTrial]) -> None:
        """Take in finished trials, in the order in which they were drawn."""
        for trial in sorted(trials, key=number_of):
            self._study.add_trial(trial)
            self._numbers.add(number_of(trial))

    def exhausted(self) -> bool:
        """Whether every candidate of the space within the budget was drawn or taken."""
        return self._sampler.exhausted(self._study)

    def draw(self) -> Draw:
        """A new candidate."""
        return self._suggest(None)

    def take(self, candidate: Candidate, number: int | None = None) -> Draw:
        """A candidate that is tried anyway, for the sampler to learn from where the space has it.

        Args:
            candidate: What is tried.
            number: Which draw it was when it was cut off; None if it was none.
        """
        if candidate not in self._space:
            trial = self._ask(number)  # it counts, as it does when the study is read by a search that goes on
            trial.set_user_attr("key", candidate.key)
            return Draw(candidate, trial.number, trial.user_attrs[NUMBER])
        self._study.enqueue_trial(dict(self._space.params(candidate)))
        return self._suggest(number)

    def report(self, place: int, epoch: int, value: float) -> None:
        """Tell the sampler a value on the way.

        Args:
            place: The draw's.
            epoch: From 1.
            value: The task's metric.
        """
        self._study.report(place, epoch, value)

    def tell(self, place: int, state: TrialState, values: Sequence[float] | None = None) -> Mapping[str, Any]:
        """Tell the sampler how a trial ended.

        Args:
            place: The draw's.
            state: COMPLETE, PRUNED or FAIL.
            values: Of the objectives, if it is complete.

        Returns:
            All that the sampler keeps with it.
        """
        return self._study.tell(place, values, state=state).system_attrs

    def _ask(self, number: int | None) -> Trial:
        if number is None or number in self._numbers:
            number = next(free for free in itertools.count() if free not in self._numbers)
        self._numbers.add(number)
        trial = self._study.ask()
        trial.set_user_attr(NUMBER, number)  # before its first parameter
        return trial

    def _suggest(self, number: int | None) -> Draw:
        trial = self._ask(number)
        candidate = self._space.suggest(trial, self._budget)
        if self._budget.cost is not None:
            trial.set_user_attr("params", self._budget.cost(candidate.design))
        trial.set_user_attr("key", candidate.key)
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        attributes = frozen.user_attrs
        return Draw(
            candidate, trial.number, attributes[NUMBER], frozen.params, frozen.distributions, frozen.system_attrs
        )
