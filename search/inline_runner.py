"""Run trials one after the other in this process: for notebooks, tests, and machines without Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from petlas.search.config import RunConfig
from petlas.search.session import Proposal, Stage
from petlas.search.training import EpochResult, Work
from petlas.search.work import open_work


@contextmanager
def opened(config: RunConfig) -> Iterator[InlineRunner]:
    """A runner that uses as many threads as a trial is given."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.resources.cpus)
    try:
        yield InlineRunner()
    finally:
        torch.set_num_threads(threads)


class InlineRunner:
    """Runs a search's stages in this process."""

    def run(self, stage: Stage) -> None:
        """Run trials until the stage is exhausted."""
        while not stage.exhausted():
            _run_trial(stage, stage.propose())

    def epochs(self, make: Callable[[RunConfig], Work], config: RunConfig) -> Iterator[EpochResult]:
        """The epochs of one piece of work."""
        work = make(config)
        while not work.finished:
            yield work.epoch()


def _run_trial(stage: Stage, proposal: Proposal) -> None:
    """One trial to its end; a fault of the design ends this trial alone."""
    work: Work | None = None
    result: EpochResult | None = None
    while result is None or not work or not work.finished:
        try:
            work = work or open_work(stage.config, proposal.design, proposal.stage)
            result = work.epoch()
        except Exception as error:
            logging.getLogger("petlas").debug("trial %d failed", proposal.number, exc_info=True)
            stage.on_end(proposal.number, result, f"{type(error).__name__}: {error}")
            return
        if not stage.on_epoch(proposal.number, result):
            break
    stage.on_end(proposal.number, result)
