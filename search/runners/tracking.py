"""Tells trackers of experiments of the trials of a search, as they go on, whatever runs them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlas.lazy import look_up
from petlas.search.reports.readable import sizes_of
from petlas.search.run_folder import TRACKING
from petlas.search.run_log import about
from petlas.search.runners import TRACKERS
from petlas.search.stages.rounds import Job, Turns
from petlas.search.study import REPEAT, SCORE
from petlas.search.training import EpochResult

if TYPE_CHECKING:
    from petlas.search.runners.ray.trackers import Tracker

log = logging.getLogger("petlas")

_LONGEST = 60
"""Letters of a design in the name of a trial."""


@contextmanager
def tracked(runs: Sequence[Turns]) -> Iterator[None]:
    """Tell each run's trackers of its trials while they are done in here.

    Args:
        runs: Of which none has begun, on a Ray that has started where they need one.
    """
    trackings: list[_Tracking] = []
    beside = Path(runs[0].bench.config.runs)
    for run in runs:
        config = run.bench.config
        for name in dict.fromkeys(config.search.trackers):
            tracker = look_up(TRACKERS[name])(config.name, config.folder / TRACKING / name, beside)
            trackings.append(_Tracking(name, tracker, run.bench.objective.metric.name))
            run.watchers.append(trackings[-1])
            with about(config.folder, run.name):
                log.info("%s follows the trials: %s", name, tracker.look)
    try:
        yield
    except BaseException:
        _end(trackings, in_time=False)
        raise
    _end(trackings, in_time=True)


def _end(trackings: Sequence[_Tracking], *, in_time: bool) -> None:
    for tracking in trackings:
        tracking.end(in_time=in_time)


@dataclass(eq=False)
class _Trial:
    """What Ray's callbacks ask one of Tune's trials for.

    Args:
        name: What people call it.
        trial_id: What distinguishes it from those of other runs.
        config: Its parameters.
        place: Where it may write.
        experiment_dir_name: What it is one of.
    """

    name: str
    trial_id: str
    config: dict[str, Any]
    place: Path
    experiment_dir_name: str

    def __str__(self) -> str:
        return self.name

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """The parameters once more."""
        return self.config

    @property
    def local_path(self) -> str:
        """Where it may write: a folder that is there once somebody asks for it."""
        self.place.mkdir(parents=True, exist_ok=True)
        return str(self.place)

    def init_local_path(self) -> None:
        """Nothing: the folder is there when it is asked for."""


class _Tracking:
    """Tells one tracker of the trainings of one run; what goes wrong with that is said once and no fault of the search.

    Args:
        name: The tracker's.
        tracker: The tracker.
        metric: What values are of.
    """

    def __init__(self, name: str, tracker: Tracker, metric: str) -> None:
        self._name, self._tracker, self._metric = name, tracker, metric
        self._callback: Any = None  # Ray's, made when there is something to tell
        self._trials: dict[int, tuple[_Trial, int]] = {}  # those that run, and their last epochs
        self._off = False

    def on_start(self, job: Job) -> None:
        """Tell a trial's parameters; scores, and what is no trial, are not told."""
        entry = job.proposal.entry
        if entry is not None and entry.stage != SCORE:
            self._try(lambda callback: callback.log_trial_start(self._begun(job)))

    def on_epoch(self, job: Job, result: EpochResult) -> None:
        """Tell the value, the loss and the time, each epoch once."""
        trial, told = self._trials.get(job.proposal.number, (None, 0))
        if trial is None or result.epoch <= told:
            return
        self._trials[job.proposal.number] = trial, result.epoch
        values = {self._metric: result.val, "loss": result.loss, "seconds": result.seconds}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        finite |= {"training_iteration": result.epoch}
        self._try(lambda callback: callback.log_trial_result(result.epoch, trial, finite))

    def on_end(self, job: Job, error: str) -> None:
        """Tell the end."""
        trial, _ = self._trials.pop(job.proposal.number, (None, 0))
        if trial is not None:
            self._close(trial, failed=bool(error))

    def end(self, *, in_time: bool) -> None:
        """Tell that no more is to come.

        Args:
            in_time: Whether what is still to be uploaded is waited for.
        """
        for trial, _ in self._trials.values():
            self._close(trial, failed=True)
        if in_time and self._callback is not None:
            self._try(lambda callback: callback.on_experiment_end([]))

    def _close(self, trial: _Trial, *, failed: bool) -> None:
        self._try(lambda callback: callback.log_trial_end(trial, failed=failed))

    def _begun(self, job: Job) -> _Trial:
        """The trial of a job, with what it tries as its parameters."""
        entry, number, tracker = job.proposal.tried, job.proposal.number, self._tracker
        candidate, fidelity = entry.candidate, entry.fidelity
        methods = "+".join(candidate.design.by_method) or "linear"
        name = f"{number:03}-{methods[:_LONGEST]}"
        about = {
            "design": str(candidate),
            "stage": entry.stage,
            "parameters": entry.params,
            "epochs": fidelity.epochs,
            "seed": fidelity.seed,
        } | ({} if fidelity.fold is None else {"fold": fidelity.fold, REPEAT: fidelity.repeat})
        params = tracker.named(about | sizes_of(candidate) | dict(candidate.settings))
        trial = _Trial(name, f"{tracker.run}-{number}", params, tracker.folder.absolute() / name, tracker.run)
        self._trials[number] = trial, 0
        return trial

    def _try(self, tell: Callable[[Any], object]) -> None:
        if self._off:
            return
        try:
            if self._callback is None:
                self._callback = self._tracker.callback()
            tell(self._callback)
        except Exception as error:
            self._off = True
            log.warning("%s is told no more: %s: %s", self._name, type(error).__name__, error)
            log.debug("what went wrong with it", exc_info=True)
