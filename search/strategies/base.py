"""What a strategy is: which stages a search has, in which order, and what they cost."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import numpy as np

from petlas.datasets import class_counts, shown
from petlas.petl.design import Design
from petlas.search.config import RunConfig, space_of
from petlas.search.objectives import ObjectiveError
from petlas.search.samplers import make_sampler
from petlas.search.sensitivity import SensitivityReport, seed_designs
from petlas.search.stages.base import Stage
from petlas.search.stages.proposer import Direction, Proposer
from petlas.search.stages.train import TrainStage, whole
from petlas.search.strategies.baselines import baselines
from petlas.search.study import ACCURACY, BASELINE, SEARCH, Entry, StudyRecord
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate, Space


@dataclass(frozen=True)
class StageCost:
    """A stage of a search, and what it costs at most.

    Args:
        stage: What it is called.
        trials: How many it has.
        R: All of them, in R.
        seconds: All of them, on one worker.
        workers: How many run at once.
    """

    stage: str
    trials: int
    R: float
    seconds: float
    workers: int = 1


@dataclass(frozen=True)
class Prices:
    """What a run's work costs, measured.

    Args:
        bench: The run's workbench.
        step: Seconds of a training step for an image.
        forward: Seconds of a forward pass for an image.
        images: How many each view has.
        workers: How many trials run at once.
    """

    bench: Workbench
    step: float
    forward: float
    images: dict[str, int]
    workers: int = 1

    @property
    def one(self) -> float:
        """R in seconds: one training at full epochs, measured after each."""
        return self.bench.config.train.epochs * (self.images["train"] * self.step + self.images["val"] * self.forward)

    def cost(self, stage: str, trials: int, seconds: float, *, alone: bool = False) -> StageCost:
        """The cost of a stage.

        Args:
            stage: What it is called.
            trials: How many it has.
            seconds: What they take, all together.
            alone: Whether they are done one after the other, whatever there is.
        """
        workers = 1 if alone else min(self.workers, max(1, trials))
        return StageCost(stage, trials, round(seconds / self.one, 2), round(seconds, 1), workers)

    def trained(self, stage: str, trials: int) -> StageCost:
        """The cost of training candidates on their own, all of them to their end.

        Args:
            stage: What it is called.
            trials: How many there are; `search.trials` bounds them.
        """
        trials = min(self.bench.config.search.trials, trials)
        return self.cost(stage, trials, trials * self.one)


@dataclass
class Search:
    """One search, from where its study stands.

    Args:
        bench: The run's workbench.
        record: Its study.
        late: Whether the time for the search is up.
        sensitivity: What was measured of the weights, where something needs it.
    """

    bench: Workbench
    record: StudyRecord
    late: Callable[[], bool] = field(default=lambda: False)
    sensitivity: SensitivityReport | None = None

    def proposer(self, space: Space) -> Proposer:
        """What draws candidates of a space, by the run's sampler."""
        config, budget = self.bench.config, self.bench.budget
        name = config.search.sampler
        own = getattr(config.search, name, None)  # a sampler's own settings stand in the group of its name
        sampler = make_sampler(name, space, budget, config.seed, own.model_dump() if own is not None else None)
        first: Direction = "maximize" if self.record.maximize else "minimize"
        directions: list[Direction] = [first, "minimize"]
        return Proposer(sampler, space, budget, directions[: self.record.objectives])

    def designs_only(self) -> Space:
        """The run's space without settings: what scores can tell apart."""
        return dataclasses.replace(self.bench.space, settings=())

    def training(self, entries: Iterable[Entry] = (), *, draws: bool) -> TrainStage:
        """The stage that trains on their own what a strategy asks for, the baselines, and what is drawn.

        Args:
            entries: What the strategy asks for; it comes first.
            draws: Whether the sampler draws further candidates.
        """
        queue = [*entries, *self.entries(self.sensitive(), SEARCH), *self._baselines()]
        proposer = self.proposer(self.bench.space) if draws else None
        again = self.record.failed() if self.bench.config.search.retry_failed else ()
        return TrainStage(self.bench, self.record, queue, proposer, self.late, again)

    def entries(self, designs: Iterable[Design], stage: str) -> list[Entry]:
        """Designs to be trained at full epochs.

        Args:
            designs: The designs, trained with the run's own settings.
            stage: Why.
        """
        return [whole(self.bench, Candidate(design), stage) for design in designs]

    def sensitive(self) -> list[Design]:
        """Designs with sizes in proportion to the sensitivity, where the run begins with such."""
        if self.bench.config.search.seed_designs != "sensitivity" or self.sensitivity is None:
            return []
        return seed_designs(self.bench, self.sensitivity.sites)

    def _baselines(self) -> list[Entry]:
        if not self.bench.config.search.baselines:
            return []
        found = baselines(self.bench.shape, self.bench.budget.limit, self.bench.cost, self.bench.budget.further)
        return self.entries(found.values(), BASELINE)


class Strategy(ABC):
    """How a search goes about it."""

    summary: ClassVar[str]
    measures_sensitivity: ClassVar[bool] = False
    """Whether it needs the sensitivity of the weights."""
    goes_on_with: ClassVar[str] = "search.trials"
    """Of what a search that came to its end needs more to go on."""
    compares_on_folds: ClassVar[bool] = False
    """Whether its own stages measure on folds, so that none need to follow."""

    def deals(self, bench: Workbench) -> int:
        """How often images are dealt to folds, each time anew, for what candidates are compared on.

        Args:
            bench: The run's workbench.
        """
        return bench.config.protocol.repeats if bench.config.protocol.folds else 0

    @abstractmethod
    def stages(self, search: Search) -> Iterator[Stage]:
        """The stages, in order; each is asked for when the one before is done, so it can build on what came of it."""

    @abstractmethod
    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        """What its stages cost at most.

        Args:
            prices: Of the run's work.
            known: How many baselines and seed designs are trained beside.
        """


def needs_sensitivity(strategy: Strategy, config: RunConfig) -> bool:
    """Whether a search measures the sensitivity of the weights: its strategy, its first designs or its space ask.

    Args:
        strategy: How the search goes about it.
        config: The run's configuration.
    """
    seeds = config.search.seed_designs == "sensitivity"
    return strategy.measures_sensitivity or seeds or bool(space_of(config).get("prune"))


def check_folds(strategy: Strategy, bench: Workbench) -> None:
    """Refuse to compare on folds by a metric whose value over them would be of other classes on each.

    What is told image by image can be put together of all folds; a metric that ranks images cannot.

    Args:
        strategy: How the search goes about it.
        bench: The run's workbench.

    Raises:
        ObjectiveError: When candidates are to be compared on folds, and a class is not in all of them.
    """
    metric, task = bench.objective.metric, bench.task
    if metric.paired or metric.by_class or not (deals := strategy.deals(bench)):
        return
    whole = class_counts(task.views["trainval"], task.num_classes)
    places = product(range(deals), range(bench.folds))
    held = [bench.views(Fidelity(1, 0, fold, bench.folds, repeat))[1] for repeat, fold in places]
    least = np.min([class_counts(view, task.num_classes) for view in held], axis=0)
    if missing := np.flatnonzero((whole > 0) & (least == 0)).tolist():
        one = missing[0]
        raise ObjectiveError(
            f"{metric.name} over folds needs each class in each of the {bench.folds} folds of train and val, and "
            f"{shown(task.classes[one])} ({whole[one]} image{'s' if whole[one] > 1 else ''}) is missing in one"
            f"{f', as {len(missing) - 1} others are' if len(missing) > 1 else ''}; give it more images, leave it out, "
            "or take strategy=trials without protocol.folds"
        )


def objectives_of(bench: Workbench) -> tuple[tuple[str, ...], bool]:
    """The objectives of a run's study, and whether more is better of the first."""
    return tuple(bench.config.search.objectives) or (ACCURACY,), bench.objective.metric.maximize
