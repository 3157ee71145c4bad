"""Does jobs with Ray Tune. The only module that imports Ray."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

# Read by Ray at import: no banner tables, no handler that swallows Ctrl-C, no usage reports.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "16")  # so many workers may start at once
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # or relative paths would mean other files in the workers

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from petlas.search.config import ResourcesConfig, RunConfig
from petlas.search.run_folder import RunError
from petlas.search.runners.blame import is_of_surroundings, told
from petlas.search.runners.limit import Limit, too_long
from petlas.search.stages import open_work
from petlas.search.stages.base import Proposal
from petlas.search.stages.rounds import Job, Rounds
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import shared_workbench

log = logging.getLogger("petlas")

_DIED = "the worker died"
_NAMESPACE, _PRESENCE = "petlas", "driver-"
_LOOKS_EVERY = 2.0  # seconds
_KNOCKS_FOR = 3.0  # seconds
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""A frame of settings of HTTP/2 that sets nothing: its length, its type, flags and stream."""


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
    """

    def __init__(self, rounds: Rounds, most: Callable[[], int]) -> None:
        super().__init__(metric="val", mode="max")
        self.rounds, self._most = rounds, most
        self.jobs: dict[str, Job] = {}
        """What is handed out and not done, by Tune's names of trials."""
        self._started: dict[str, float] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next job as plain data; None to be asked again, FINISHED when nothing more is to come."""
        most = self._most()
        if self.jobs and len(self.jobs) >= most:
            return None if len(self.jobs) == most else Searcher.FINISHED  # what runs ends, and all is given back
        job = self.rounds.next()
        if job is None:
            return Searcher.FINISHED if self.rounds.over else None
        self.jobs[trial_id] = job
        resources = job.bench.config.resources
        needs = {"CPU": resources.cpus, "GPU": resources.gpus}
        about = {"run": job.bench.config.model_dump_json(), "needs": needs, "limit": job.limit}
        return job.proposal.to_config() | about

    def start(self, trial_id: str) -> None:
        """Pass it on that a worker begins."""
        self._started[trial_id] = time.monotonic()
        self.jobs[trial_id].start()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed it on, also where it stops the trial."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the last epoch and the end.

        Args:
            trial_id: Tune's.
            result: The last result of the worker.
            error: Whether the worker is gone.
        """
        job, found = self.jobs.pop(trial_id), result or {}
        last, took = _epoch_result(result), time.monotonic() - self._started.pop(trial_id, math.inf)
        if found.get("fault"):
            job.on_fault(found["error"])
        elif error and job.limit is not None and took > job.limit:
            job.on_end(None, too_long(job.limit))
        elif error:
            job.on_lost(_DIED)
        else:
            if last is not None:
                job.on_epoch(last)
            job.on_end(last, found.get("error", ""), found.get("device"))

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
        self._search.start(trial.trial_id)


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
        last = _epoch_result(result)
        keeps = last is None or self._search.jobs[trial.trial_id].on_epoch(last)
        return TrialScheduler.CONTINUE if keeps else TrialScheduler.STOP


class FaultStopper(_Unpickled, tune.Stopper):
    """Ends all trials when all runs have stopped; those of a single run end with their epochs.

    Args:
        rounds: The runs.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped on its own.

        Args:
            trial_id: Tune's.
            result: Of the epoch.
        """
        return False

    def stop_all(self) -> bool:
        """Whether all runs have stopped."""
        return self._rounds.stopped


class TrialWorker(tune.Trainable):
    """Does jobs of any run, one after the other: the actor stays, and with it backbones and decoded images."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first job."""
        self.work: Work | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next job."""
        self.work = None
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; a fault of the candidate ends this trial alone, one of the surroundings is told as such."""
        if self.work is None:
            self._limit = Limit(self.config["limit"], end_process=True)
        try:
            with self._limit.watch():
                bench = shared_workbench(self.config["run"])
                if self.work is None:
                    torch.set_num_threads(bench.config.resources.cpus)
                    self.work = open_work(bench, Proposal.from_config(self.config))
                result = asdict(self.work.epoch()) | {"device": str(bench.device)}
        except Exception as error:
            log.exception("%s failed", self.config["work"])
            nothing = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0.0}
            return nothing | {"error": told(error), "fault": is_of_surroundings(error), "done": True}
        return result | {"done": self.work.finished}


def _epoch_result(result: Mapping[str, Any] | None) -> EpochResult | None:
    if not result or not result.get("epoch"):
        return None
    return EpochResult(result["epoch"], result["loss"], result["val"], result["seconds"])


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of SIGTERM that raises SystemExit wherever the program is: the one of before comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _cluster(address: str | None) -> Iterator[bool]:
    """A running Ray: this process's, the cluster at `resources.address` or $RAY_ADDRESS, or one for this search.

    Args:
        address: Of a cluster, as `resources.address` gives it.

    Returns:
        Whether there may be other drivers on it.

    Raises:
        RunError: When no cluster answers.
    """
    mine, address = not ray.is_initialized(), address or os.environ.get("RAY_ADDRESS")
    if mine:
        local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": 256 * 2**20}
        if address:
            _knock(os.environ.get("RAY_ADDRESS") or address if address == "auto" else address)
        with _own_signals():
            try:
                where = {"address": address} if address else local
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **where)
            except (ConnectionError, RuntimeError, ValueError) as error:
                if address is None:
                    raise
                raise _no_cluster(address, str(error).strip().partition("\n")[0]) from error
    try:
        yield bool(address) or not mine
    finally:
        if mine:
            ray.shutdown()


def _knock(address: str) -> None:
    """Let a place where no cluster answers be told at once: Ray itself goes on trying for minutes.

    Its servers speak HTTP/2 (RFC 9113, 3.4): they answer the opening words with a frame of their settings.

    Raises:
        RunError: When nobody answers there, or in another way.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # a word that Ray knows
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCKS_FOR) as place:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                place.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
                if place.recv(9)[3:4] != _SETTINGS[3:4]:
                    raise OSError("what answers there is not Ray")
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> RunError:
    own = "resources.address or $RAY_ADDRESS"
    return RunError(
        f"{own} must be that of a running cluster, got {address!r} ({why}); start one with ray start --head, "
        "or leave both out to search on this machine alone"
    )


@contextmanager
def opened(configs: Sequence[RunConfig]) -> Iterator[RayRunner]:
    """A runner on Ray.

    Args:
        configs: Of the runs.

    Raises:
        RunError: When there is no cluster, or it has no room for a single trial.
    """
    with _cluster(configs[0].resources.address) as others, ExitStack() as stack:
        count = stack.enter_context(_present()) if others else lambda: 1
        yield RayRunner(configs, count)


@ray.remote(num_cpus=0)
class Presence:
    """Is there as long as its driver is, for the others to see."""


@contextmanager
def _present() -> Iterator[Callable[[], int]]:
    """Be seen by the other drivers on the cluster; how many there are, this one included."""
    own: Any = Presence  # what Ray made of it
    mine = own.options(name=f"{_PRESENCE}{uuid.uuid4().hex}", namespace=_NAMESPACE).remote()

    def count() -> int:
        named = ray.util.list_named_actors(all_namespaces=True)
        return sum(actor["namespace"] == _NAMESPACE and actor["name"].startswith(_PRESENCE) for actor in named)

    try:
        yield count
    finally:
        ray.kill(mine)


class RayRunner:
    """Does jobs on Ray.

    Args:
        configs: Of the runs.
        drivers: How many drivers there are on the cluster now: each takes its part of it.

    Raises:
        RunError: When the cluster has no room for a single trial of one of the runs.
    """

    def __init__(self, configs: Sequence[RunConfig], drivers: Callable[[], int] = lambda: 1) -> None:
        self._resources, self._drivers = [config.resources for config in configs], drivers
        for resources in self._resources:
            if _room(resources) < 1:
                needs, has = f"{resources.cpus} CPUs and {resources.gpus:g} GPUs", ray.cluster_resources()
                raise RunError(f"a trial needs {needs}, and Ray has {has}; lower resources.cpus or resources.gpus")
        self._part, self._looked = 0, -math.inf
        logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def run(self, rounds: Rounds) -> None:
        """Do jobs with Ray Tune until none is left."""
        while not rounds.over:  # again where a worker died when Tune had been told that nothing was left
            with tempfile.TemporaryDirectory(prefix="petlas-tune-") as scratch:
                self._tuner(rounds, scratch).fit()

    def _most(self) -> int:
        """How many jobs may be done at once now: nodes and other drivers come and go."""
        if time.monotonic() - self._looked > _LOOKS_EVERY:
            room = max(map(_room, self._resources)) // max(1, self._drivers())
            self._part, self._looked = max(1, min(room, self._resources[0].concurrent or room)), time.monotonic()
        return self._part

    def _tuner(self, rounds: Rounds, scratch: str) -> tune.Tuner:
        search = JobSearch(rounds, self._most)
        return tune.Tuner(
            tune.with_resources(TrialWorker, lambda config: tune.PlacementGroupFactory([config["needs"]])),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=JobScheduler(search),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                stop=FaultStopper(rounds),
                callbacks=[Starts(search)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # training keeps its own
                verbose=0,
            ),
        )


def _room(resources: ResourcesConfig) -> int:
    """How many trials of a run the cluster has room for."""
    has = ray.cluster_resources()
    needs = {"CPU": resources.cpus, "GPU": resources.gpus}
    return min(int(has.get(name, 0) / amount) for name, amount in needs.items() if amount)
