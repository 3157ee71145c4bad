"""Run a session's trials with Ray Tune. The only module that imports Ray."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
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
from petlas.search.session import Session
from petlas.search.training import EpochResult, TrainingRun


class _Unpickled:
    """For what Tune would put into snapshots that petlas never restores: nothing of it is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearch(_Unpickled, OptunaSearch):
    """Ray's `OptunaSearch`, made to tell the study the truth.

    Ray's own stores trials that were stopped early as COMPLETE, leaves a trial RUNNING after NaN, drops what
    multi-objective trials report, and pickles a snapshot of itself that can fall behind the database. Here the
    session writes what happened, and the study is the only state.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        record = session.record
        super().__init__(
            space=lambda trial: session.define(trial).to_config(),
            metric=["val", "params"],
            mode=["max", "min"],
            sampler=record.study.sampler,
            study_name=record.name,
            storage=record.storage,
        )

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, or FINISHED when the session is exhausted."""
        return Searcher.FINISHED if self._session.exhausted() else super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed it to the session, also where it stops the trial."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the last epoch and the end to the session."""
        number = self._ot_trials[trial_id].number
        last = _epoch_result(result)
        if last is not None:
            self._session.on_epoch(number, last)
        died = "the worker died" if error else ""
        self._session.on_end(number, last, (result or {}).get("error") or died)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the record."""


class SessionScheduler(_Unpickled, FIFOScheduler):
    """Asks the session after every epoch whether the trial goes on."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        last = _epoch_result(result)
        keeps = last is None or self._session.on_epoch(trial.config["number"], last)
        return TrialScheduler.CONTINUE if keeps else TrialScheduler.STOP


class TrialWorker(tune.Trainable):
    """Trains designs, one after the other: the actor stays, and with it the backbone and the decoded images."""

    def setup(self, config: dict[str, Any], run_config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Begin with the first trial."""
        self.run_config = RunConfig.model_validate(run_config)
        torch.set_num_threads(self.run_config.resources.cpus)
        self.run_trial: TrainingRun | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next trial."""
        self.run_trial = None
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; a fault of the design ends this trial alone."""
        try:
            if self.run_trial is None:
                design = Design.from_dict(json.loads(self.config["design"]))
                self.run_trial = TrainingRun(self.run_config, design, self.run_config.seed)
            result = asdict(self.run_trial.epoch())
        except Exception as error:
            logging.getLogger("petlas").exception("trial %d failed", self.config["number"])
            nothing = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0.0}
            result = nothing | {"error": f"{type(error).__name__}: {error}"}
        done = math.isnan(result["val"]) or self.run_trial is None or self.run_trial.finished
        return result | {"params": self.config["params"], "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial is short, and starts again after a crash."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def _epoch_result(result: Mapping[str, Any] | None) -> EpochResult | None:
    if not result or not result.get("epoch"):
        return None
    return EpochResult(result["epoch"], result["loss"], result["val"], result["seconds"])


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


def run_ray(session: Session) -> None:
    """Run trials with Ray Tune until the session is exhausted.

    Args:
        session: What is tried; it writes the study.

    Raises:
        RunError: When the cluster has no room for a single trial.
    """
    config = session.config
    needs = {"cpu": config.resources.cpus, "gpu": config.resources.gpus}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with _cluster(config), tempfile.TemporaryDirectory(prefix="petlas-tune-") as scratch:
        has = ray.cluster_resources()
        room = min(int(has.get(name.upper(), 0) / amount) for name, amount in needs.items() if amount)
        if room < 1:
            raise RunError(f"a trial needs {needs}, and Ray has {has}; lower resources.cpus or resources.gpus")
        worker = tune.with_parameters(TrialWorker, run_config=config.model_dump())
        tuner = tune.Tuner(
            tune.with_resources(worker, needs),
            tune_config=tune.TuneConfig(
                search_alg=StudySearch(session),
                scheduler=SessionScheduler(session),
                num_samples=-1,
                max_concurrent_trials=min(room, config.resources.concurrent or room),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name=config.name, storage_path=scratch, verbose=0),
        )
        tuner.fit()
