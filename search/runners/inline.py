"""Runs trials one after the other in this process: for notebooks, tests, single workers and machines without Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from petlas.search.config import RunConfig
from petlas.search.runners.blame import is_of_surroundings, told
from petlas.search.stages import open_work
from petlas.search.stages.base import Proposal, TrialStage
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")


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
    """Runs the work of stages in this process."""

    def run(self, stage: TrialStage) -> None:
        """Run trials until the stage is exhausted."""
        while not stage.exhausted():
            _run_trial(stage, stage.propose())

    def epochs(self, make: Callable[[Workbench], Work], bench: Workbench) -> Iterator[EpochResult]:
        """The epochs of one piece of work that is no trial.

        Args:
            make: Begins it.
            bench: The run's workbench.
        """
        work = make(bench)
        while not work.finished:
            yield work.epoch()


def _run_trial(stage: TrialStage, proposal: Proposal) -> None:
    """One trial to its end; a fault of the candidate ends this trial alone."""
    work: Work | None = None
    result: EpochResult | None = None
    device = str(stage.bench.device)
    while result is None or not work or not work.finished:
        try:
            work = work or open_work(stage.bench, proposal)
            result = work.epoch()
        except Exception as error:
            log.debug("trial %d failed", proposal.number, exc_info=True)
            if is_of_surroundings(error):
                stage.on_fault(proposal.number, told(error))
            else:
                stage.on_end(proposal.number, result, told(error), device)
            return
        if not stage.on_epoch(proposal.number, result):
            break
    stage.on_end(proposal.number, result, device=device)
