"""One search over one study: what is tried next, what goes on, what is written down.

Both runners, Ray Tune and the one in this process, ask the same session, so a search is the same in either.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

from optuna.trial import TrialState

from petlas.petl.backbone import shape_by_name
from petlas.petl.design import Design
from petlas.search.baselines import baselines
from petlas.search.config import RunConfig
from petlas.search.evolution import Evolution, EvolutionSampler
from petlas.search.halving import Halving
from petlas.search.record import BASELINE, RANKING, SCORE, SEARCH, SENSITIVITY, StudyRecord, design_of, row_of
from petlas.search.samplers import FeasibleSampler, make_sampler
from petlas.search.supernet import space_and_budget
from petlas.search.training import EpochResult
from petlas.spaces import Budget, Space

log = logging.getLogger("petlas")


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study, its design, and why it is tried."""

    number: int
    design: Design
    params: int
    stage: str

    def to_config(self) -> dict[str, Any]:
        """The proposal as the plain data that travels to a worker."""
        return asdict(self) | {"design": json.dumps(self.design.to_dict())}


class Stage(Protocol):
    """Trials of one kind: a runner asks what is next and says what came of it."""

    config: RunConfig

    def exhausted(self) -> bool:
        """Whether no further trial may start, beside those that are running."""

    def propose(self) -> Proposal:
        """The next trial, written down as running."""

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Take note of an epoch; whether the trial goes on."""

    def on_end(self, number: int, result: EpochResult | None, error: str = "") -> None:
        """Take note of a trial's end, from its last epoch; None if it never finished one."""


def _sampler(config: RunConfig, space: Space, budget: Budget, stage: str | None) -> FeasibleSampler:
    """The sampler of a run, for the trials of a stage."""
    search = config.search
    if search.sampler == "evolution":
        evolution = Evolution(**search.evolution.model_dump())
        return EvolutionSampler(space, budget, config.seed, evolution, stage)
    return make_sampler(search.sampler, space, budget, config.seed, stage)


class Session:
    """The search of one run, from its start or from where its study stands: its stand-alone training trials.

    With `strategy: supernet` or `sensitivity` it draws no designs: it trains the baselines and what is enqueued.

    Args:
        config: The run's configuration.

    Raises:
        SpaceError: When the space cannot be built, or no design of it fits the budget.
        BackboneError: When the backbone is not known.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.shape = shape_by_name(config.backbone.name, config.backbone.img_size)
        self.space, self.budget = space_and_budget(config)
        assert self.budget.cost is not None
        self.cost: Callable[[Design], int] = self.budget.cost
        self.cost(self.space.largest)  # a method of the space that does not suit the backbone is refused here
        self.draws = config.strategy in ("auto", "trials")
        self.sampler = _sampler(config, self.space, self.budget, None if self.draws else SCORE)
        self.halving = Halving(config.train.epochs, config.search.reduction, config.search.grace_epochs)

    @cached_property
    def record(self) -> StudyRecord:
        """The study, opened when first needed; the run folder must exist."""
        return StudyRecord.in_folder(self.config.folder, self.config.storage, self.sampler)

    def start(self) -> None:
        """Queue the baselines that the study does not know, and start the clock."""
        self._started = time.monotonic()
        if self.config.search.baselines:
            for name, design in baselines(self.shape, self.budget.limit, self.cost).items():
                if self.enqueue(design, BASELINE):
                    log.debug("queued baseline %s", name)

    def exhausted(self) -> bool:
        """Whether no further trial may start, beside those that are running.

        Queued trials heed the number of trials, but neither the clock nor the end of the space.
        """
        if self.record.count_finished() + self.record.count_running() >= self.config.search.trials:
            return True
        if self.record.trials(TrialState.WAITING):
            return False
        limit = self.config.search.seconds
        late = limit is not None and time.monotonic() - self._started >= limit
        return late or not self.draws or self.sampler.exhausted(self.record.study)

    def propose(self) -> Proposal:
        """The next trial: a queued design, or a new one from the space, within the budget."""
        trial = self.record.study.ask()
        if "design" in trial.user_attrs:
            design, stage = design_of(trial), trial.user_attrs["stage"]
            if self.draws and design in self.space:
                self.space.suggest(trial, self.budget)  # so that the sampler learns from it
        else:
            design, stage = self.space.suggest(trial, self.budget), SEARCH
            self.record.describe(trial, design, self.cost(design), stage, self.config.seed)
        return Proposal(trial.number, design, self.cost(design), stage)

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Write down an epoch; whether the trial goes on."""
        if not math.isfinite(result.val):
            return False
        self.record.report(number, result.epoch, result.val)
        if self._stage(number) in (BASELINE, SENSITIVITY, RANKING):
            return True
        return self.halving.keeps(result.epoch, result.val, self.record.rung(result.epoch, but=number))

    def on_end(self, number: int, result: EpochResult | None, error: str = "") -> None:
        """Write down a trial's end, from its last epoch; None if it never finished one."""
        epochs, seconds = (result.epoch, result.seconds) if result else (0, 0.0)
        val = result.val if result and not error else None
        self.record.finish(number, epochs, val, epochs == self.config.train.epochs, seconds, error)
        self._log_trial(number)

    def enqueue(self, design: Design, stage: str) -> bool:
        """Let a design be trained; whether the study did not have it yet."""
        fixed = self.space.params(design) if self.draws and design in self.space else {}
        return self.record.enqueue(design, self.cost(design), stage, self.config.seed, fixed)

    def _stage(self, number: int) -> str:
        stage: str = self.record.trials()[number].user_attrs["stage"]
        return stage

    def _log_trial(self, number: int) -> None:
        trial = self.record.trials()[number]
        row = row_of(trial)
        val = f"val {100 * row.val:5.1f}%" if row.val is not None else row.state
        epochs = f"{row.epochs}/{self.config.train.epochs}"
        log.info(
            "trial %3d  %-8s %-8s %s  %8s params  epoch %-7s %5.0f s  %s",
            number, row.state, row.stage, val, f"{row.params:,}", epochs, row.seconds, design_of(trial),
        )  # fmt: skip
        if "error" in trial.user_attrs:
            log.warning("trial %3d  failed: %s", number, trial.user_attrs["error"])
