"""Searches from their start, or from where they stand, to their end: one, or several at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from optuna.trial import FrozenTrial

from petlas.errors import UserError
from petlas.files import write_text
from petlas.search.config import RunConfig
from petlas.search.cost_model import keep_shares
from petlas.search.identity import claim
from petlas.search.live import watched
from petlas.search.plan import outline, search_costs
from petlas.search.run_folder import clear_checkpoints, opened
from petlas.search.runners import check_resources, check_together, open_runner
from petlas.search.runners.tracking import tracked
from petlas.search.sensitivity import with_pruned_space
from petlas.search.stages.base import Stage
from petlas.search.stages.costs import costs_of_cluster
from petlas.search.stages.rounds import Rounds, Turns
from petlas.search.stages.sensitivity import SensitivityStage
from petlas.search.stages.train import FoldStage
from petlas.search.strategies import get_strategy
from petlas.search.strategies.base import Search, check_folds, needs_sensitivity, objectives_of
from petlas.search.study import DATABASE, Holding, StudyRecord, candidate_of, export_database, mend_journal
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

if TYPE_CHECKING:
    from petlas.search.runners.ray.start import Start

log = logging.getLogger("petlas")


@dataclass(frozen=True)
class Found:
    """What the search of a run came to.

    Args:
        best: The best trial; None if no trial came to its end.
        error: Why the search stopped before its end; None if it did not.
    """

    best: FrozenTrial | None
    error: Exception | None = None


def search(config: RunConfig) -> FrozenTrial | None:
    """Run or resume the search of one configuration.

    Args:
        config: The run's configuration.

    Returns:
        The best trial, or None if no trial came to its end.

    Raises:
        UserError: When something is wrong with the configuration, the data, the backbone or the machine, or the
            surroundings fail on the way.
    """
    (found,) = search_together([config])
    if found.error is not None:
        raise found.error
    return found.best


def search_together(
    configs: Sequence[RunConfig],
    start: Start | None = None,
    after_stage: Callable[[RunConfig], None] = lambda config: None,
) -> list[Found]:
    """Run or resume the searches of several configurations, all at once; one that stops does not take others along.

    Args:
        configs: Of the runs. Whatever can be wrong with them, their data, their backbones or the machine is found
            before a run folder is made.
        start: Of Ray, if it has begun.
        after_stage: Told a run's configuration behind each of its stages, and when its search is over.

    Raises:
        UserError: When something is wrong with any of them at the start.
    """
    benches = [Workbench(config) for config in configs]
    check_together(configs)
    costs_of_cluster([bench for bench in benches if bench.counts_costs])
    _check(benches)
    with ExitStack() as stack:
        several = len(benches) > 1
        holdings = [stack.enter_context(opened(bench.config)) for bench in benches]
        runs = [_Run(*each, several, after_stage) for each in zip(benches, holdings, strict=True)]
        rounds = Rounds([run.turns for run in runs])
        try:
            if not rounds.over:  # Ray starts only if something is left to run
                turns = [run.turns for run in runs]
                with watched(turns, costs=search_costs), open_runner(benches, start) as runner, tracked(turns):
                    runner.run(rounds)
        finally:
            for run in runs:
                run.leave()
        return [run.found() for run in runs]


def _check(benches: Sequence[Workbench]) -> None:
    """Let all that is wrong with any of the runs be told at once, before the first of them starts."""
    faults: dict[str, UserError] = {}
    for bench in benches:
        try:
            check_resources(bench.config)
            bench.check()
            check_folds(get_strategy(bench.config.strategy), bench)
        except UserError as error:
            faults[bench.config.name] = error
    if len(faults) > 1:
        raise UserError("\n".join(f"{name}: {error}" for name, error in faults.items()))
    for fault in faults.values():
        raise fault


class _Run:
    """One of the runs that are searched together.

    Args:
        bench: Its workbench.
        holding: Its folder, held by this process.
        several: Whether there are others.
        after_stage: Told its configuration behind each stage, and when its search is over.
    """

    def __init__(
        self, bench: Workbench, holding: Holding, several: bool, after_stage: Callable[[RunConfig], None]
    ) -> None:
        self._bench, self._folder, self._after_stage = bench, holding.folder, after_stage
        mend_journal(self._folder)
        objectives, maximize = objectives_of(bench)
        self._record = StudyRecord.create(self._folder, bench.config.storage, objectives, maximize, holding.check)
        claim(self._record, bench)
        if bench.counts_costs:
            keep_shares(bench, bench.costs.shares)
        self.turns = Turns(bench, self._stages, bench.config.name if several else "", self._record)
        with self.turns.at_work():
            if stale := self._record.recover():
                log.info("%d interrupted trials are tried again, from where they stood", stale)
        self._clock = _Clock(self._record, bench.config.search.seconds)

    def _stages(self) -> Iterator[Stage]:
        """What is left of the search, each stage from where it stands."""
        started = False
        for stage in self._all_stages():
            if not stage.exhausted():
                if not started:
                    log.info("%s", outline(self._bench))
                started = True
                yield stage
                self._after_stage(self._bench.config)
        if not started:
            more = get_strategy(self._bench.config.strategy).goes_on_with
            log.info("%s has all its trials; raise %s to go on", self._folder, more)

    def _all_stages(self) -> Iterator[Stage]:
        """The sensitivity where something needs it, the stages of the strategy, and then the folds of the finalists."""
        strategy, bench, found = get_strategy(self._bench.config.strategy), self._bench, None
        if needs_sensitivity(strategy, bench.config):
            measured = SensitivityStage(bench)
            yield measured
            found = measured.found
            assert found is not None, "a search that goes on has measured"
            bench = with_pruned_space(bench, found.sites)
        yield from strategy.stages(Search(bench, self._record, self._clock.late, found))
        if bench.config.protocol.folds and not strategy.compares_on_folds:
            yield FoldStage(bench, self._record)

    def leave(self) -> None:
        """Write down what would be lost, however the search ended."""
        with self.turns.at_work():
            self._clock.note()
            self._record.recover()

    def found(self) -> Found:
        """Hand over what was found."""
        with self.turns.at_work():
            if self.turns.error is None:
                return Found(self._hand_over())
        return Found(None, self.turns.error)

    def _hand_over(self) -> FrozenTrial | None:
        clear_checkpoints(self._folder)
        best = self._record.best()
        if best is not None:
            _write_best(candidate_of(best), self._folder / "best")
        if self._bench.config.storage is None:
            export_database(self._record.storage, self._record.name, self._folder / DATABASE)
        self._after_stage(self._bench.config)
        return best


class _Clock:
    """The time that a search takes, over all processes that work at it one after the other."""

    def __init__(self, record: StudyRecord, limit: float | None) -> None:
        self._record, self._limit = record, limit
        self._before, self._start = record.elapsed, time.monotonic()

    def late(self) -> bool:
        """Whether the time is up; what was spent is written down, so that a search that is killed counts it too."""
        return self._limit is not None and self.note() >= self._limit

    def note(self) -> float:
        """Write down how many seconds were spent so far, and give them."""
        spent = self._before + time.monotonic() - self._start
        self._record.spend(spent)
        return spent


def _write_best(candidate: Candidate, folder: Path) -> None:
    """Write the best candidate; an adapter of another one that lies beside it is named as such."""
    path, adapter = folder / "design.yaml", folder / "adapter.safetensors"
    if adapter.exists() and Candidate.load(path) != candidate:
        log.warning("%s is of a design that is no longer the best; petlas retrain makes the new one", adapter)
    write_text(path, yaml.safe_dump(candidate.to_dict(), sort_keys=False))
