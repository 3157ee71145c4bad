"""Search a run from its start, or from where it stands, to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Protocol

import yaml
from optuna.trial import FrozenTrial

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.record import SEARCH, SENSITIVITY, design_of
from petlas.search.run_folder import claim, clear_checkpoints, opened, write_text
from petlas.search.scores import ScoreStage, enqueue_finalists
from petlas.search.sensitivity import Report, report_of, seed_designs, uses_sensitivity, with_pruned_space
from petlas.search.session import Session, Stage
from petlas.search.supernet import SupernetRun
from petlas.search.training import EpochResult, Work, fresh_backbone, open_run_task

log = logging.getLogger("petlas")


class Runner(Protocol):
    """What runs a search's work."""

    def run(self, stage: Stage) -> None:
        """Run trials until the stage is exhausted."""

    def epochs(self, make: Callable[[RunConfig], Work], config: RunConfig) -> Iterator[EpochResult]:
        """The epochs of one piece of work."""


def search(config: RunConfig) -> FrozenTrial | None:
    """Run or resume the search of a configuration.

    Args:
        config: The run's configuration. Whatever can be wrong with it, the task or the backbone is found before the
            run folder is made.

    Returns:
        The best trial, or None if no trial came to its end.
    """
    session = checked_session(config)
    with opened(config) as folder:
        found = report_of(config) if uses_sensitivity(config) else None
        if found is not None and (pruned := with_pruned_space(config, found.sites)) is not config:
            session = Session(pruned)
        record = session.record
        claim(record.study, config)
        stale = record.recover()
        if stale:
            log.info("%d interrupted trials are marked FAIL and will run again", stale)
        try:
            _run(session, found)
        except KeyboardInterrupt:
            record.recover()
            raise
        clear_checkpoints(folder)
        best = record.best()
        if best is not None:
            _hand_over(design_of(best), folder / "best")
        return best


def checked_session(config: RunConfig) -> Session:
    """The session of a configuration whose task, backbone and space are in order; nothing is written."""
    session = Session(config)
    open_run_task(config)
    fresh_backbone(config)
    return session


def _run(session: Session, found: Report | None) -> None:
    """The stages of a search, each from where it stands."""
    config = session.config
    with ExitStack() as stack:
        runner = cache(lambda: stack.enter_context(_runner(config)))  # Ray starts only if something is left to run
        if config.strategy == "supernet":
            scores = ScoreStage(session)
            if not scores.exhausted():
                _train_supernet(runner(), config)
                runner().run(scores)
            enqueue_finalists(session)
        elif found is not None and config.strategy == "sensitivity":
            for allocated in found.designs:
                session.enqueue(Design.from_dict(allocated.design), SENSITIVITY)
        if found is not None and config.search.seed_designs == "sensitivity":
            for design in seed_designs(session.space, session.budget, found.sites):
                session.enqueue(design, SEARCH)
        session.start()
        if session.exhausted():
            log.info("%s has all its trials; raise search.trials to go on", config.folder)
        else:
            runner().run(session)


def _train_supernet(runner: Runner, config: RunConfig) -> None:
    for result in runner.epochs(SupernetRun, config):
        epochs = f"{result.epoch}/{config.supernet.epochs}"
        log.info("supernet  epoch %-7s loss %.3f  %5.0f s", epochs, result.loss, result.seconds)


def _hand_over(design: Design, folder: Path) -> None:
    """Write the best design; an adapter of another design that lies beside it is named as such."""
    path, adapter = folder / "design.yaml", folder / "adapter.safetensors"
    if adapter.exists() and Design.load(path) != design:
        log.warning("%s is of a design that is no longer the best; petlas retrain makes the new one", adapter)
    write_text(path, yaml.safe_dump(design.to_dict(), sort_keys=False))


def _runner(config: RunConfig) -> AbstractContextManager[Runner]:
    """What runs trials: Ray, or this process."""
    if config.resources.runner == "inline":
        from petlas.search import inline_runner

        return inline_runner.opened(config)
    from petlas.search import ray_runner

    return ray_runner.opened(config)
