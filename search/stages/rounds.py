"""The stages of one search, or of several at once, as a stream of jobs for a runner.

The runs take turns: what is done next is of the run whose work took the fewest seconds so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from petlas.search.run_log import ASIDE, about
from petlas.search.stages.base import SearchStopped, Stage
from petlas.search.study.reading import StudyReader
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")


class Runner(Protocol):
    """What executes the work of stages: Ray Tune, or this process."""

    def run(self, rounds: Rounds) -> None:
        """Do jobs until none is left."""


class Watcher(Protocol):
    """Told how the jobs of a run go on; it raises nothing, whatever is wrong with it."""

    def on_start(self, job: Job) -> None:
        """A worker begins with a job."""

    def on_epoch(self, job: Job, result: EpochResult) -> None:
        """A job had an epoch; the last one may be told twice.

        Args:
            job: The job.
            result: What the epoch gave.
        """

    def on_end(self, job: Job, error: str) -> None:
        """A job came to its end.

        Args:
            job: The job.
            error: Why, if not by being done or stopped.
        """


class Turns:
    """One of the runs: its stages, one after the other, and what its work costs.

    Args:
        bench: The run's workbench.
        stages: Makes its stages; each is asked for when the one before is done. What is wrong with one ends this run.
        name: What to call the run beside others; empty where it is the only one.
        record: Its study; None where nothing is written down in one.
    """

    def __init__(
        self,
        bench: Workbench,
        stages: Callable[[], Iterator[Stage]],
        name: str = "",
        record: StudyReader | None = None,
    ) -> None:
        self.bench, self.record = bench, record
        self.error: Exception | None = None
        """Why the run stopped before its end."""
        self.watchers: list[Watcher] = []
        """Told after a job of it began, had an epoch, or ended."""
        self.name = name
        """What to call it beside others."""
        self._stages = self._opened(stages)
        self._stage: Stage | None = None
        self._jobs: list[Job] = []
        self._spent, self._done, self._forgone = 0.0, 0, 0.0

    @staticmethod
    def _opened(stages: Callable[[], Iterator[Stage]]) -> Iterator[Stage]:
        for stage in stages():
            stage.on_open()
            yield stage
            stage.on_close()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What is done in here is of this run, and so is what fails in here."""
        with about(self.bench.config.folder, self.name):
            try:
                yield
            except Exception as error:
                if self.error is None:
                    self.error = error
                    aside = None if self.name else ASIDE  # the command tells of one alone
                    log.error("stopped: %s", error, extra=aside)

    @property
    def running(self) -> int:
        """How many of its jobs were handed out and have not come to their end."""
        return len(self._jobs)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Its jobs that were handed out and have not come to their end."""
        return tuple(self._jobs)

    @property
    def done(self) -> int:
        """How many of its jobs came to their end in this process."""
        return self._done

    def ready(self) -> bool:
        """Whether it has anything to hand out now; stages that are done give way to the next."""
        if self.error is None:
            with self.at_work():
                while self._stage is None or (self._stage.exhausted() and not self._jobs):
                    self._stage = next(self._stages, None)
                    if self._stage is None:
                        return False
                return not self._stage.exhausted()
        return False

    def hand_out(self) -> Job | None:
        """Its next job; None if that went wrong."""
        assert self._stage is not None, "ready() says whether there is anything to hand out"
        with self.at_work():
            job = Job(self, self._stage)
            self._jobs.append(job)
            return job
        return None

    def take_back(self, job: Job) -> None:
        """Count a job that came to its end."""
        self._jobs.remove(job)
        self._spent += job.seconds
        self._done += 1

    def cost(self) -> float:
        """Seconds that its work took and that it gave up; what runs counts as no shorter than its jobs usually are."""
        usual = self._spent / self._done if self._done else 1.0
        return self._forgone + self._spent + sum(max(job.seconds, usual) for job in self._jobs)

    def catch_up(self, cost: float) -> None:
        """Give up turns that it could not use: no run saves them up to take them all at once."""
        self._forgone += max(0.0, cost - self.cost())


class Job:
    """A piece of work that is handed out; what comes of it goes to the stage that it is of.

    Args:
        turns: The run.
        stage: Its stage, which has something to propose.
    """

    def __init__(self, turns: Turns, stage: Stage) -> None:
        self._turns, self._stage = turns, stage
        self.proposal = stage.propose()
        self.seconds = 0.0
        """What it took so far."""
        self.epoch = 0
        """How many epochs it had; 0 before the first."""
        self._begun = False

    @property
    def bench(self) -> Workbench:
        """The workbench that it is done on."""
        return self._stage.bench

    @property
    def begun(self) -> bool:
        """Whether a worker began with it."""
        return self._begun

    @property
    def limit(self) -> float | None:
        """How many seconds it may take; None for any number."""
        return self._stage.limit

    @property
    def all_threads(self) -> bool:
        """Whether it has all threads of the driver's process, where it is done in that, and not only a trial's."""
        return self._stage.all_threads

    @property
    def views(self) -> tuple[str, ...]:
        """Of `trainval` and `test`, those whose images it reads."""
        return self._stage.views

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the run folder that it may read."""
        return self._stage.files(self.proposal)

    @property
    def stopped(self) -> bool:
        """Whether its run has stopped, and it is to stop with it."""
        return bool(self._turns.error or self._stage.fault)

    def of(self, run: Turns) -> bool:
        """Whether it is a run's.

        Args:
            run: The run.
        """
        return self._turns is run

    def beside(self, count: int = 1) -> list[Job]:
        """Further jobs of its stage, to be done as one piece of work with it: as many as the stage allows.

        Args:
            count: How many are done in that already.
        """
        found: list[Job] = []
        while len(found) + count < self._stage.pack and self._turns.ready():
            job = self._turns.hand_out()
            if job is None:
                break
            found.append(job)
        return found

    def start(self) -> None:
        """Take note that a worker begins."""
        if not self._begun and not self.stopped:
            self._begun = True
            with self._turns.at_work():
                self.proposal = self._stage.begin(self.proposal)
            self._tell(lambda watcher: watcher.on_start(self))

    def on_epoch(self, result: EpochResult) -> bool:
        """Take note of an epoch; whether the work goes on."""
        self.seconds, self.epoch, goes_on = result.seconds, result.epoch, False
        if not self.stopped:
            with self._turns.at_work():
                goes_on = self._stage.on_epoch(self.proposal.number, result)
            self._tell(lambda watcher: watcher.on_epoch(self, result))
        return goes_on

    def on_end(self, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Take note of the end.

        Args:
            result: The last epoch; None if none was finished.
            error: What failed, if it was the work's own fault.
            device: Where it ran.
        """
        self._end(lambda number: self._stage.on_end(number, result, error, device), error)

    def on_lost(self, why: str) -> None:
        """Take note that the worker is gone: the work is done again, up to a limit."""
        self._end(lambda number: self._stage.on_lost(number, why), why or "lost")

    def on_starved(self, why: str, counts: bool = True) -> None:
        """Take note that its share of a GPU had too little memory, or that it was lost beside others.

        Args:
            why: What is known of it.
            counts: Whether it counts as lost, and not those beside it may be to blame.
        """
        self._end(lambda number: self._stage.on_starved(number, why, counts), why)

    def on_fault(self, message: str) -> None:
        """Take note that the surroundings failed: the run stops, and the job counts as never done."""
        self._end(lambda number: self._stage.on_fault(number, message), message)

    def _end(self, told: Callable[[int], None], error: str) -> None:
        """Tell the stage and the watchers; where the run has stopped, that the job counts as never done."""
        self.start()
        self._turns.take_back(self)
        with self._turns.at_work():
            if self.stopped:
                self._stage.on_fault(self.proposal.number, str(self._turns.error))
            else:
                told(self.proposal.number)
            if self._stage.fault:
                raise SearchStopped(self._stage.fault)
        self._tell(lambda watcher: watcher.on_end(self, error))

    def _tell(self, told: Callable[[Watcher], None]) -> None:
        with about(self.bench.config.folder, self._turns.name):
            for watcher in self._turns.watchers:
                told(watcher)


class Rounds:
    """Hands out the jobs of runs that are searched together; a run that stops does not take the others along.

    Args:
        runs: The runs.
    """

    def __init__(self, runs: Sequence[Turns]) -> None:
        self.runs = runs

    def next(self) -> Job | None:
        """The next job; None where there is none now, or as long as something runs."""
        while (first := self._first()) is not None:
            if (job := first.hand_out()) is not None:
                return job
        return None

    def stop(self, message: str) -> None:
        """Stop all runs for what their surroundings did.

        Args:
            message: What happened.
        """
        for run in self.runs:
            with run.at_work():
                raise SearchStopped(message)

    def further(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs in the places of those that ended of a piece of work of several, if it is the turn of their run.

        Args:
            jobs: What is left of it, at least one.
        """
        first = self._first()
        return jobs[0].beside(len(jobs)) if first is not None and jobs[0].of(first) else []

    def _first(self) -> Turns | None:
        """The run whose turn it is; None where none has anything to hand out."""
        ready = [run for run in self.runs if run.ready()]
        first = min(ready, key=Turns.cost, default=None)
        for run in self.runs:
            if first is not None and run not in ready:
                run.catch_up(first.cost())
        return first

    @property
    def over(self) -> bool:
        """Whether nothing runs, and there is nothing to hand out."""
        return not any(run.running or run.ready() for run in self.runs)

    @property
    def stopped(self) -> bool:
        """Whether all runs have stopped before their end."""
        return all(run.error is not None for run in self.runs)
