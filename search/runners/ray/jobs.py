"""Jobs as Tune's trials: what Tune asks of a searcher, a scheduler, a stopper and a callback."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from petlas.search.config import ResourcesConfig, RunConfig
from petlas.search.runners.blame import told
from petlas.search.runners.limit import too_long
from petlas.search.runners.ray.devices import alone, share
from petlas.search.runners.ray.head import Head
from petlas.search.runners.ray.pack import JobPack, epoch_result
from petlas.search.runners.ray.supplier import Supplier
from petlas.search.stages.rounds import Job, Rounds
from petlas.search.training import EpochResult

_DIED = "the worker died"
_LOGS = "why is in its logs, below /tmp/ray/session_latest/logs on each node"
_FULL = "the node's memory was full, and Ray ended the worker"
_MOST_STARTS, _ROUNDS = 6, 3
"""How many workers in a row may end before they begin, and how many times as many as there are at once, which may end
with one node: none of them has seen a candidate."""
_PATIENCE = 10.0
"""Seconds in which a worker says whether it is there."""


class _Unpickled:
    """For what Tune would put into snapshots that petlas never restores: nothing of it is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class JobSearch(_Unpickled, Searcher):
    """Hands jobs out as Tune's trials and takes back what came of them; the studies of the runs are the only state.

    Ray's own `OptunaSearch` stores trials that were stopped early as COMPLETE, leaves a trial RUNNING after NaN, and
    pickles a snapshot of itself that can fall behind the database.

    Args:
        rounds: Hands out the jobs.
        most: How many of them may be done at once, now.
        resources: What a worker of a run is given.
        supplier: Hands workers what they need.
        head: Of the cluster. Most of what Tune does waits for it, and what ends for want of it is nobody's fault.
    """

    def __init__(
        self,
        rounds: Rounds,
        most: Callable[[], int],
        resources: Callable[[RunConfig], ResourcesConfig],
        supplier: Supplier,
        head: Head,
    ) -> None:
        super().__init__(metric="val", mode="max")
        self.rounds, self._most, self._resources = rounds, most, resources
        self._supplier, self._head = supplier, head
        self.jobs: dict[str, Job | JobPack] = {}
        """What is handed out and not done, by Tune's names of trials."""
        self._started: dict[str, float] = {}
        self._workers: dict[str, Any] = {}
        self._faults: dict[str, str] = {}
        self._never_began = 0

    def suggest(self, trial_id: str) -> Any:
        """The next job as plain data; None to be asked again, FINISHED when nothing more is to come."""
        most = self._most()
        if self.jobs and len(self.jobs) >= most:
            return None if len(self.jobs) == most else Searcher.FINISHED  # what runs ends, and all is given back
        self._head.look(now=True)  # before a worker is asked for; Tune asks all the time for jobs that have no room
        job = self.rounds.next()
        if job is None:
            return Searcher.FINISHED if self.rounds.over else None
        self.jobs[trial_id] = handed = _packed(job)
        resources = self._resources(job.bench.config)
        run = job.bench.config.model_copy(update={"resources": resources}).model_dump_json()
        needs = alone(resources) if job.proposal.alone else share(resources)
        beside = [proposal.to_config() for proposal in handed.beside] if isinstance(handed, JobPack) else []
        about = {"run": run, "needs": needs, "limit": handed.limit, "beside": beside}
        return job.proposal.to_config() | about | self._supplier.about(handed)

    def start(self, trial_id: str, worker: Any = None) -> None:
        """Pass it on that a worker begins.

        Args:
            trial_id: Tune's.
            worker: The actor.
        """
        self._started[trial_id], self._workers[trial_id], self._never_began = time.monotonic(), worker, 0
        self.jobs[trial_id].start()

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass on an epoch, and before it write down what the worker sent; whether the trial goes on.

        Args:
            trial_id: Tune's.
            result: Of the epoch.
        """
        self._keep(trial_id, result)
        job, last = self.jobs[trial_id], _epoch_result(result)
        if trial_id in self._faults:
            return False
        if isinstance(job, JobPack):
            ended = job.on_members(result["members"], result["device"])
            if ended and job.left:
                self._workers[trial_id].drop.remote(ended)
                self._top_up(job, self._workers[trial_id])
            return bool(job.left)
        return last is None or job.on_epoch(last)

    def _top_up(self, pack: JobPack, worker: Any) -> None:
        """Let further jobs join those that are left, if it is the turn of their run."""
        if further := self.rounds.further(list(pack.left.values())):
            files = self._supplier.files(JobPack(further))
            pack.join(further)
            worker.join.remote([job.proposal.to_config() for job in further], files)

    def _keep(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Write what a worker sent into the run folder; a disk that is full is a fault of the surroundings."""
        try:
            for name, data in result["sent"].taken().items() if "sent" in result else ():
                self.jobs[trial_id].bench.files.write(name, data)
        except OSError as error:
            self._faults[trial_id] = told(error)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed it on, also where it stops the trial."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the last epoch and the end.

        Args:
            trial_id: Tune's.
            result: The last result of the worker.
            error: Whether the worker is gone.

        Raises:
            HeadLost: When it is gone with the cluster's head: the job is still among those that are handed out.
        """
        found, head_was_there = result or {}, self._head.look(now=error)
        self._keep(trial_id, found)
        self._workers.pop(trial_id, None)
        job, fault = self.jobs.pop(trial_id), self._faults.pop(trial_id, None)
        if found.get("fault"):
            fault = found["error"]
        if error and trial_id not in self._started:
            self._never_began += 1
            if self._never_began >= max(_MOST_STARTS, _ROUNDS * self._most()):
                fault = fault or f"{self._never_began} of Ray's workers in a row ended before they began; {_LOGS}"
        last, took = _epoch_result(result), time.monotonic() - self._started.pop(trial_id, math.inf)
        if fault is not None:
            job.on_fault(fault)
        elif found.get("starved") and not job.proposal.alone and 0 < (self._resources(job.bench.config).gpus or 0) < 1:
            job.on_starved(found["error"])
        elif error and job.limit is not None and took > job.limit:
            job.on_end(None, too_long(job.limit))
        elif error:
            job.on_lost(_DIED if head_was_there and not self._never_began else "")
        else:
            if isinstance(job, JobPack):
                job.on_members(found.get("members", ()), found.get("device"))
            elif last is not None:
                job.on_epoch(last)
            job.on_end(last, found.get("error", ""), found.get("device"))

    def on_break(self, error: RayError) -> None:
        """Pass it on that Tune broke off because of how a worker ended, as it does for want of memory.

        That worker's job is lost; the others are done again, and that is nothing against them.

        Args:
            error: How it ended.
        """
        jobs, workers = self.jobs, self._workers
        self.jobs, self._workers, self._started = {}, {}, {}
        ended = {name for name in jobs if _ended_oddly(workers.get(name))} or set(jobs)
        full = isinstance(error, OutOfMemoryError)
        for name, job in reversed(jobs.items()):  # each goes to the head of its queue
            resources = self._resources(job.bench.config)
            if name not in ended:
                job.on_lost("")
            elif full and not job.proposal.alone and alone(resources) != share(resources):
                job.on_starved(_FULL)
            else:
                job.on_lost(_FULL if full else _DIED)

    def on_head_lost(self, message: str) -> None:
        """Let what is handed out count as never done.

        Args:
            message: What happened.
        """
        self.rounds.stop(message)
        for job in self.jobs.values():
            job.on_fault(message)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the studies are the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the studies are the record."""


class Starts(_Unpickled, tune.Callback):
    """Tells when a worker begins with a trial: until then it waits for resources.

    Args:
        search: Hands out the jobs.
    """

    def __init__(self, search: JobSearch) -> None:
        self._search = search

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Pass it on.

        Args:
            iteration: Not needed.
            trials: Not needed.
            trial: Tune's trial.
            info: Not needed.
        """
        self._search.start(trial.trial_id, trial.temporary_state.ray_actor)


class JobScheduler(_Unpickled, FIFOScheduler):
    """Asks after every epoch whether the trial goes on.

    Args:
        search: Hands out the jobs.
    """

    def __init__(self, search: JobSearch) -> None:
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP.

        Args:
            tune_controller: Not needed.
            trial: Tune's trial.
            result: Of the epoch.
        """
        keeps = self._search.on_epoch(trial.trial_id, result)
        return TrialScheduler.CONTINUE if keeps else TrialScheduler.STOP

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """None: all are started in their order, and a worker that is free goes to the job that is handed out next.

        Tune would give it to the trial that waits longest, and drop the worker that is starting for that one: as long
        as trials are shorter than the start of a worker, no further worker would ever come up.

        Args:
            tune_controller: Not needed.
        """
        return None


class FaultStopper(_Unpickled, tune.Stopper):
    """Ends all trials when all runs have stopped; those of a single run end with their epochs.

    Args:
        rounds: The runs.
        head: Of the cluster; it is looked for in each of Tune's steps.
    """

    def __init__(self, rounds: Rounds, head: Head) -> None:
        self._rounds, self._head = rounds, head

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped on its own.

        Args:
            trial_id: Tune's.
            result: Of the epoch.
        """
        return False

    def stop_all(self) -> bool:
        """Whether all runs have stopped."""
        self._head.look()
        return self._rounds.stopped


def _ended_oddly(worker: Any) -> bool:
    """Whether a worker ended, and neither by its own nor by Tune's doing."""
    try:
        ray.get(worker.__ray_ready__.remote(), timeout=_PATIENCE)
    except RayActorError:
        return False
    except RayError as error:
        return not isinstance(error, TimeoutError)
    return False


def _packed(job: Job) -> Job | JobPack:
    """A job, with as many others as its run says."""
    beside = [] if job.proposal.alone else job.beside()
    return JobPack([job, *beside]) if beside else job


def _epoch_result(result: Mapping[str, Any] | None) -> EpochResult | None:
    return epoch_result(result) if result and result.get("epoch") else None
