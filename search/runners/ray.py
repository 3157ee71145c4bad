"""Runs the work of stages with Ray Tune. The only module that imports Ray."""

from __future__ import annotations

import logging
import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

# Read by Ray at import: no banner tables, no handler that swallows Ctrl-C, no usage reports.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # or relative paths would mean other files in the workers

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from petlas.search.config import RunConfig
from petlas.search.run_folder import RunError
from petlas.search.runners.blame import is_of_surroundings, told
from petlas.search.stages import open_work
from petlas.search.stages.base import Proposal, TrialStage
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import Workbench, shared_workbench

log = logging.getLogger("petlas")

_DIED = "the worker died"


class _Unpickled:
    """For what Tune would put into snapshots that petlas never restores: nothing of it is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StageSearch(_Unpickled, Searcher):
    """Lets a stage propose Tune's trials and write down what came of them; the study is the only state.

    Ray's own `OptunaSearch` stores trials that were stopped early as COMPLETE, leaves a trial RUNNING after NaN, and
    pickles a snapshot of itself that can fall behind the database.

    Args:
        stage: The stage.
    """

    def __init__(self, stage: TrialStage) -> None:
        super().__init__(metric="val", mode="max")
        self._stage = stage
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, or FINISHED when the stage is exhausted."""
        if self._stage.exhausted():
            return Searcher.FINISHED
        proposal = self._stage.propose()
        self._numbers[trial_id] = proposal.number
        return proposal.to_config()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed it to the stage, also where it stops the trial."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the last epoch and the end to the stage.

        Args:
            trial_id: Tune's.
            result: The last result of the worker.
            error: Whether the worker is gone.
        """
        number, found = self._numbers[trial_id], result or {}
        last = _epoch_result(result)
        if found.get("fault"):
            self._stage.on_fault(number, found["error"])
        elif self._stage.fault:  # stopped with the others
            self._stage.on_fault(number, self._stage.fault)
        elif error:
            self._stage.on_lost(number, _DIED)
        else:
            if last is not None:
                self._stage.on_epoch(number, last)
            self._stage.on_end(number, last, found.get("error", ""), found.get("device"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the record."""


class StageScheduler(_Unpickled, FIFOScheduler):
    """Asks the stage after every epoch whether the trial goes on.

    Args:
        stage: The stage.
    """

    def __init__(self, stage: TrialStage) -> None:
        super().__init__()
        self._stage = stage

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP.

        Args:
            tune_controller: Not needed.
            trial: Tune's trial.
            result: Of the epoch.
        """
        last = _epoch_result(result)
        keeps = last is None or self._stage.on_epoch(trial.config["number"], last)
        return TrialScheduler.CONTINUE if keeps else TrialScheduler.STOP


class FaultStopper(_Unpickled, tune.Stopper):
    """Ends all trials of a stage when its surroundings have failed.

    Args:
        stage: The stage.
    """

    def __init__(self, stage: TrialStage) -> None:
        self._stage = stage

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped on its own.

        Args:
            trial_id: Tune's.
            result: Of the epoch.
        """
        return False

    def stop_all(self) -> bool:
        """Whether the surroundings have failed."""
        return bool(self._stage.fault)


class TrialWorker(tune.Trainable):
    """Does the work of trials, one after the other: the actor stays, and with it the backbone and decoded images."""

    def setup(self, config: dict[str, Any], run_config: str = "") -> None:
        """Begin with the first trial.

        Args:
            config: Of the trial.
            run_config: The run's configuration as JSON.
        """
        self._run_config = run_config
        torch.set_num_threads(RunConfig.model_validate_json(run_config).resources.cpus)
        self.work: Work | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next trial."""
        self.work = None
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; a fault of the candidate ends this trial alone, one of the surroundings is told as such."""
        try:
            bench = shared_workbench(self._run_config)
            if self.work is None:
                self.work = open_work(bench, Proposal.from_config(self.config))
            result = asdict(self.work.epoch()) | {"device": str(bench.device)}
        except Exception as error:
            log.exception("trial %d failed", self.config["number"])
            nothing = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0.0}
            result = nothing | {"error": told(error), "fault": is_of_surroundings(error)}
        done = math.isnan(result["val"]) or self.work is None or self.work.finished
        return result | {"done": done}


def _epoch_result(result: Mapping[str, Any] | None) -> EpochResult | None:
    if not result or not result.get("epoch"):
        return None
    return EpochResult(result["epoch"], result["loss"], result["val"], result["seconds"])


@ray.remote
class WorkActor:
    """One piece of work in a process of its own."""

    def __init__(self, make: Callable[[Workbench], Work], run_config: str) -> None:
        bench = shared_workbench(run_config)
        torch.set_num_threads(bench.config.resources.cpus)
        self._work = make(bench)

    def epoch(self) -> EpochResult | None:
        """The next epoch; None when there is none left."""
        return None if self._work.finished else self._work.epoch()


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
def _cluster(config: RunConfig) -> Iterator[None]:
    """A running Ray: this process's, the cluster at `resources.address` or $RAY_ADDRESS, or one for this search."""
    mine = not ray.is_initialized()
    if mine:
        local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": 256 * 2**20}
        address = config.resources.address or os.environ.get("RAY_ADDRESS")
        where = {"address": address} if address else local
        with _own_signals():
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **where)
            except ConnectionError as error:
                raise RunError(
                    f"resources.address must be that of a running cluster, got {address!r}; start one with ray start "
                    "--head, or leave it out"
                ) from error
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def opened(config: RunConfig) -> Iterator[RayRunner]:
    """A runner on Ray.

    Raises:
        RunError: When there is no cluster, or it has no room for a single trial.
    """
    with _cluster(config):
        yield RayRunner(config)


class RayRunner:
    """Runs the work of stages on Ray.

    Args:
        config: The run's configuration.

    Raises:
        RunError: When the cluster has no room for a single trial.
    """

    def __init__(self, config: RunConfig) -> None:
        self._needs = {"cpu": config.resources.cpus, "gpu": config.resources.gpus}
        has = ray.cluster_resources()
        room = min(int(has.get(name.upper(), 0) / amount) for name, amount in self._needs.items() if amount)
        if room < 1:
            raise RunError(f"a trial needs {self._needs}, and Ray has {has}; lower resources.cpus or resources.gpus")
        self._concurrent = min(room, config.resources.concurrent or room)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def run(self, stage: TrialStage) -> None:
        """Run trials with Ray Tune until the stage is exhausted."""
        while not stage.exhausted():  # again where a worker died when Tune had been told that nothing was left
            with tempfile.TemporaryDirectory(prefix="petlas-tune-") as scratch:
                self._tuner(stage, scratch).fit()

    def _tuner(self, stage: TrialStage, scratch: str) -> tune.Tuner:
        worker = tune.with_parameters(TrialWorker, run_config=stage.bench.config.model_dump_json())
        return tune.Tuner(
            tune.with_resources(worker, self._needs),
            tune_config=tune.TuneConfig(
                search_alg=StageSearch(stage),
                scheduler=StageScheduler(stage),
                num_samples=-1,
                max_concurrent_trials=self._concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                stop=FaultStopper(stage),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # training keeps its own
                verbose=0,
            ),
        )

    def epochs(self, make: Callable[[Workbench], Work], bench: Workbench) -> Iterator[EpochResult]:
        """The epochs of one piece of work, done in an actor with a trial's resources.

        Args:
            make: Begins it, in the actor.
            bench: The run's workbench.
        """
        needs = {"num_cpus": self._needs["cpu"], "num_gpus": self._needs["gpu"]}
        actor = WorkActor.options(**needs).remote(make, bench.config.model_dump_json())  # type: ignore[attr-defined]
        try:
            while (result := ray.get(actor.epoch.remote())) is not None:
                yield result
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
