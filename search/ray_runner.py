"""Run a search's stages with Ray Tune. The only module that imports Ray."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import MappingProxyType
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
from ray.tune.search.optuna import OptunaSearch

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.run_folder import RunError
from petlas.search.session import Stage
from petlas.search.training import EpochResult, Work
from petlas.search.work import open_work


class _Unpickled:
    """For what Tune would put into snapshots that petlas never restores: nothing of it is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearch(_Unpickled, OptunaSearch):
    """Ray's `OptunaSearch`, made to tell the study the truth.

    Ray's own stores trials that were stopped early as COMPLETE, leaves a trial RUNNING after NaN, drops what
    multi-objective trials report, and pickles a snapshot of itself that can fall behind the database. Here the
    stage proposes trials and writes what happened, and the study is the only state.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(space=lambda trial: {}, metric=["val", "params"], mode=["max", "min"])
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
        """Pass the last epoch and the end to the stage."""
        number = self._numbers[trial_id]
        last = _epoch_result(result)
        if last is not None:
            self._stage.on_epoch(number, last)
        died = "the worker died" if error else ""
        self._stage.on_end(number, last, (result or {}).get("error") or died)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the record."""


class StageScheduler(_Unpickled, FIFOScheduler):
    """Asks the stage after every epoch whether the trial goes on."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        last = _epoch_result(result)
        keeps = last is None or self._stage.on_epoch(trial.config["number"], last)
        return TrialScheduler.CONTINUE if keeps else TrialScheduler.STOP


class TrialWorker(tune.Trainable):
    """Trains or scores designs, one after the other: the actor stays, and with it the backbone and decoded images."""

    def setup(self, config: dict[str, Any], run_config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Begin with the first trial."""
        self.run_config = RunConfig.model_validate(run_config)
        torch.set_num_threads(self.run_config.resources.cpus)
        self.work: Work | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next trial."""
        self.work = None
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; a fault of the design ends this trial alone."""
        try:
            if self.work is None:
                design = Design.from_dict(json.loads(self.config["design"]))
                self.work = open_work(self.run_config, design, self.config["stage"])
            result = asdict(self.work.epoch())
        except Exception as error:
            logging.getLogger("petlas").exception("trial %d failed", self.config["number"])
            nothing = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0.0}
            result = nothing | {"error": f"{type(error).__name__}: {error}"}
        done = math.isnan(result["val"]) or self.work is None or self.work.finished
        return result | {"params": self.config["params"], "done": done}


def _epoch_result(result: Mapping[str, Any] | None) -> EpochResult | None:
    if not result or not result.get("epoch"):
        return None
    return EpochResult(result["epoch"], result["loss"], result["val"], result["seconds"])


@ray.remote
class WorkActor:
    """One piece of work in a process of its own."""

    def __init__(self, make: Callable[[RunConfig], Work], config: dict[str, Any]) -> None:
        run_config = RunConfig.model_validate(config)
        torch.set_num_threads(run_config.resources.cpus)
        self._work = make(run_config)

    def epoch(self) -> EpochResult | None:
        """The next epoch; None when there is none left."""
        return None if self._work.finished else self._work.epoch()


@contextmanager
def _cluster(config: RunConfig) -> Iterator[None]:
    """A running Ray: this process's, the cluster at `resources.address` or $RAY_ADDRESS, or one for this search."""
    mine = not ray.is_initialized()
    if mine:
        local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": 256 * 2**20}
        address = config.resources.address or os.environ.get("RAY_ADDRESS")
        where = {"address": address} if address else local
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **where)
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def opened(config: RunConfig) -> Iterator[RayRunner]:
    """A runner on Ray.

    Raises:
        RunError: When the cluster has no room for a single trial.
    """
    with _cluster(config):
        yield RayRunner(config)


class RayRunner:
    """Runs a search's stages on Ray.

    Args:
        config: The run's configuration.
    """

    def __init__(self, config: RunConfig) -> None:
        self._needs = {"cpu": config.resources.cpus, "gpu": config.resources.gpus}
        has = ray.cluster_resources()
        room = min(int(has.get(name.upper(), 0) / amount) for name, amount in self._needs.items() if amount)
        if room < 1:
            raise RunError(f"a trial needs {self._needs}, and Ray has {has}; lower resources.cpus or resources.gpus")
        self._concurrent = min(room, config.resources.concurrent or room)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def run(self, stage: Stage) -> None:
        """Run trials with Ray Tune until the stage is exhausted."""
        config = stage.config
        with tempfile.TemporaryDirectory(prefix="petlas-tune-") as scratch:
            worker = tune.with_parameters(TrialWorker, run_config=config.model_dump())
            tuner = tune.Tuner(
                tune.with_resources(worker, self._needs),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearch(stage),
                    scheduler=StageScheduler(stage),
                    num_samples=-1,
                    max_concurrent_trials=self._concurrent,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name=config.name,
                    storage_path=scratch,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # training keeps its own
                    verbose=0,
                ),
            )
            tuner.fit()

    def epochs(self, make: Callable[[RunConfig], Work], config: RunConfig) -> Iterator[EpochResult]:
        """The epochs of one piece of work, done in an actor with a trial's resources."""
        needs = {"num_cpus": self._needs["cpu"], "num_gpus": self._needs["gpu"]}
        actor = WorkActor.options(**needs).remote(make, config.model_dump())  # type: ignore[attr-defined]
        try:
            while (result := ray.get(actor.epoch.remote())) is not None:
                yield result
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
