"""Does jobs one after the other in this process: for notebooks, tests, single workers and machines without Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from petlas.search.runners.blame import is_of_surroundings, told
from petlas.search.runners.limit import Limit
from petlas.search.stages import open_packed, open_work
from petlas.search.stages.rounds import Job, Rounds
from petlas.search.training import EpochResult, Work, device_name
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")


@contextmanager
def opened(
    benches: Sequence[Workbench], start: None = None, views: Sequence[str] = ("trainval",), packs: bool = True
) -> Iterator[InlineRunner]:
    """A runner that leaves this process with as many threads as it had.

    Args:
        benches: Of the runs; each says how many threads its jobs have.
        start: Nothing: there is nothing to start.
        views: Whose images the work reads; they are where they are.
        packs: Nothing: what is to be measured is measured when it is needed.
    """
    threads = torch.get_num_threads()
    try:
        yield InlineRunner()
    finally:
        torch.set_num_threads(threads)


class InlineRunner:
    """Does jobs in this process."""

    def run(self, rounds: Rounds) -> None:
        """Do jobs until none is left."""
        while (job := rounds.next()) is not None:
            if not job.all_threads:
                torch.set_num_threads(job.bench.config.resources.cpus)
            jobs = [job, *job.beside()]
            for each in jobs:
                each.start()
            if len(jobs) > 1:
                _do_together(jobs, rounds)
            else:
                _do(job)


def _do(job: Job) -> None:
    """One job to its end; a fault of the candidate ends this job alone."""
    work: Work | None = None
    result: EpochResult | None = None
    device, limit = device_name(job.bench.device), Limit(job.limit)
    while result is None or not work or not work.finished:
        try:
            with limit.watch():
                work = work or open_work(job.bench, job.proposal)
                result = work.epoch()
        except Exception as error:
            log.debug("trial %d failed", job.proposal.number, exc_info=True)
            _fail(job, result, error, device)
            return
        if not job.on_epoch(result):
            break
    job.on_end(result, device=device)


def _do_together(jobs: Sequence[Job], rounds: Rounds) -> None:
    """Jobs of one stage as one piece of work; each ends by itself, and another one takes its place."""
    bench, left = jobs[0].bench, {job.proposal.number: job for job in jobs}
    device, last = device_name(bench.device), dict[int, EpochResult]()
    try:
        packed = open_packed(bench, [job.proposal for job in jobs])
    except Exception:
        log.debug("trials %s are done one by one", ", ".join(map(str, left)), exc_info=True)
        for job in jobs:
            _do(job)
        return
    while left:
        for number, outcome in packed.epoch().items():
            job = left[number]
            if isinstance(outcome, Exception):
                _fail(job, last.get(number), outcome, device)
            else:
                last[number] = outcome
                if job.on_epoch(outcome) and not packed.finished(number):
                    continue
                job.on_end(outcome, device=device)
            del left[number]
            packed.drop(number)
        if left and (further := rounds.further(list(left.values()))):
            for job in further:
                job.start()
                left[job.proposal.number] = job
            packed.add([job.proposal for job in further])


def _fail(job: Job, result: EpochResult | None, error: Exception, device: str) -> None:
    """The end of a job by an error, after its last epoch."""
    if is_of_surroundings(error):
        job.on_fault(told(error))
    else:
        job.on_end(result, told(error), device)
