"""One search from its start, or from where it stands, to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import yaml
from optuna.trial import FrozenTrial

from petlas.files import write_text
from petlas.search.config import RunConfig
from petlas.search.identity import claim
from petlas.search.plan import outline
from petlas.search.run_folder import clear_checkpoints, opened
from petlas.search.runners import check_resources, open_runner
from petlas.search.sensitivity import SensitivityReport, report_of, with_pruned_space
from petlas.search.stages.base import Stage
from petlas.search.stages.train import FoldStage
from petlas.search.strategies import get_strategy
from petlas.search.strategies.base import Search, Strategy, needs_sensitivity, objectives_of
from petlas.search.study import DATABASE, StudyRecord, candidate_of, export_database, mend_journal
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")


def search(config: RunConfig) -> FrozenTrial | None:
    """Run or resume the search of a configuration.

    Args:
        config: The run's configuration. Whatever can be wrong with it, the data, the backbone or the machine is found
            before the run folder is made.

    Returns:
        The best trial, or None if no trial came to its end.

    Raises:
        UserError: When something is wrong with them, or the surroundings fail on the way.
    """
    bench = Workbench(config)
    check_resources(config)
    bench.check()
    with opened(config) as folder:
        mend_journal(folder)
        objectives, maximize = objectives_of(bench)
        record = StudyRecord.create(folder, config.storage, objectives, maximize)
        claim(record, bench)
        if stale := record.recover():
            log.info("%d interrupted trials are tried again, from where they stood", stale)
        strategy = get_strategy(config.strategy)
        found = report_of(bench) if needs_sensitivity(strategy, config) else None
        narrowed = bench if found is None else with_pruned_space(bench, found.sites)
        try:
            _run(strategy, narrowed, record, found)
        except KeyboardInterrupt:
            record.recover()
            raise
        clear_checkpoints(folder)
        best = record.best()
        if best is not None:
            _hand_over(candidate_of(best), folder / "best")
        if config.storage is None:
            export_database(record.storage, record.name, folder / DATABASE)
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


def _run(strategy: Strategy, bench: Workbench, record: StudyRecord, found: SensitivityReport | None) -> None:
    """The stages of a search, each from where it stands."""
    config = bench.config
    started, clock = False, _Clock(record, config.search.seconds)
    with ExitStack() as stack:
        stack.callback(clock.note)
        runner = cache(lambda: stack.enter_context(open_runner(config)))  # Ray starts only if something is left to run
        for stage in _stages(strategy, Search(bench, record, clock.late, found)):
            if not stage.exhausted():
                if not started:
                    log.info("%s", outline(bench))
                started = True
                stage.run(runner())
    if not started:
        log.info("%s has all its trials; raise search.trials to go on", config.folder)


def _stages(strategy: Strategy, search: Search) -> Iterator[Stage]:
    """Those of the strategy, and then the folds of the finalists."""
    yield from strategy.stages(search)
    if search.bench.config.protocol.folds:
        yield FoldStage(search.bench, search.record)


def _hand_over(candidate: Candidate, folder: Path) -> None:
    """Write the best candidate; an adapter of another one that lies beside it is named as such."""
    path, adapter = folder / "design.yaml", folder / "adapter.safetensors"
    if adapter.exists() and Candidate.load(path) != candidate:
        log.warning("%s is of a design that is no longer the best; petlas retrain makes the new one", adapter)
    write_text(path, yaml.safe_dump(candidate.to_dict(), sort_keys=False))
