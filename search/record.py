"""The study: an Optuna study in the run folder, the one truth about trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from petlas.petl.design import Design

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
"""Accuracy on the selection split, and trainable parameters."""


@dataclass(frozen=True)
class TrialRow:
    """One trial, as `petlas study --format json` prints it; `val` is the last measured accuracy."""

    number: int
    state: str
    stage: str
    design: dict[str, Any]
    key: str
    params: int
    val: float | None
    epochs: int
    seconds: float


class StudyRecord:
    """Reads and writes the study of one run.

    Args:
        url: An Optuna storage URL, such as `sqlite:///runs/demo/study.db`.
        name: The study's name.
        sampler: Draws new designs; not needed for reading.
        alone: The database is this run's own: its study is taken by any name, because a run folder may be renamed.
    """

    def __init__(
        self, url: str, name: str, sampler: optuna.samplers.BaseSampler | None = None, alone: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage: BaseStorage = RDBStorage(url)
        known = optuna.get_all_study_names(self.storage) if alone else []
        self.name = name = known[0] if known else name
        self.study: Study = optuna.create_study(
            storage=self.storage, study_name=name, directions=DIRECTIONS, sampler=sampler, load_if_exists=True
        )

    @classmethod
    def in_folder(
        cls, folder: Path, url: str | None = None, sampler: optuna.samplers.BaseSampler | None = None
    ) -> StudyRecord:
        """The study of a run folder: its `study.db`, or the database at `url`."""
        return cls(url or f"sqlite:///{folder / 'study.db'}", folder.name, sampler, alone=url is None)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in the given states."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def describe(self, trial: Trial, design: Design, params: int, stage: str, seed: int) -> None:
        """Write down what a trial is."""
        for key, value in _attributes(design, params, stage, seed).items():
            trial.set_user_attr(key, value)

    def enqueue(self, design: Design, params: int, stage: str, seed: int, fixed: Mapping[str, int]) -> bool:
        """Let a design be tried before new ones are drawn; a design that the study has already is left alone.

        Args:
            design: What to try.
            params: Its trainable parameters.
            stage: Why it is tried.
            seed: Of its training.
            fixed: Its Optuna parameters, if the space contains it.

        Returns:
            Whether it was added.
        """
        if design.key in self.keys():
            return False
        self.study.enqueue_trial(dict(fixed), user_attrs=_attributes(design, params, stage, seed))
        return True

    def keys(self) -> set[str]:
        """The keys of all designs that need not be tried again: interrupted trials do not count."""
        return {t.user_attrs["key"] for t in self.trials() if "key" in t.user_attrs and not is_interrupted(t)}

    def report(self, number: int, epoch: int, val: float) -> None:
        """Keep the accuracy after an epoch: `Trial.report` refuses studies with several objectives, storages do not."""
        trial = self._running(number)
        if trial is not None and not math.isnan(val):
            self.storage.set_trial_intermediate_value(trial._trial_id, epoch, val)

    def rung(self, epoch: int, but: int) -> list[float]:
        """The accuracies of all trials after that epoch, without trial `but` and those that were cut off."""
        others = (t.intermediate_values for t in self.trials() if t.number != but and not is_interrupted(t))
        return [values[epoch] for values in others if epoch in values]

    def finish(
        self, number: int, epochs: int, val: float | None, complete: bool, seconds: float, why: str = ""
    ) -> None:
        """End a trial, honestly: COMPLETE after all epochs, PRUNED if stopped early, FAIL without a number.

        A trial that is finished already is left as it is.
        """
        trial = self._running(number)
        if trial is None:
            return
        epochs = max(epochs, *trial.intermediate_values, 0)
        for key, value in {"epochs": epochs, "seconds": round(seconds, 2)}.items():
            self.storage.set_trial_user_attr(trial._trial_id, key, value)
        if val is None or not math.isfinite(val):
            self.storage.set_trial_user_attr(trial._trial_id, "error", why or "the loss is not finite")
            self.study.tell(number, state=TrialState.FAIL)
        elif complete:
            self.study.tell(number, [val, float(trial.user_attrs["params"])])
        else:
            self.study.tell(number, state=TrialState.PRUNED)

    def recover(self) -> int:
        """Mark trials that a dead search left RUNNING as FAIL, and queue their designs again.

        Call it only when no other process works on the study.

        Returns:
            How many there were.
        """
        stale = self.trials(TrialState.RUNNING)
        for trial in stale:
            self.storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            self.study.tell(trial.number, state=TrialState.FAIL)
        waiting = {t.user_attrs.get("key") for t in self.trials(TrialState.WAITING)}
        for trial in self.trials(TrialState.FAIL):
            key = trial.user_attrs.get("key")
            if is_interrupted(trial) and key is not None and key not in self.keys() | waiting:
                attributes = {k: v for k, v in trial.user_attrs.items() if k in _ATTRIBUTES}
                system = {"fixed_params": dict(trial.params)}
                self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs=system))
        return len(stale)

    def count_finished(self) -> int:
        """Trials that count against `search.trials`: all but interrupted ones."""
        done = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return sum(not is_interrupted(trial) for trial in done)

    def count_running(self) -> int:
        """Trials that are being trained."""
        return len(self.trials(TrialState.RUNNING))

    def best(self, stage: str | None = None) -> FrozenTrial | None:
        """The trial with the highest accuracy after all epochs; of several, the one with the fewest parameters."""
        complete = [t for t in self.trials(TrialState.COMPLETE) if stage in (None, t.user_attrs["stage"])]
        return max(complete, key=lambda t: (t.values[0], -t.values[1], -t.number), default=None)

    def pareto(self) -> list[FrozenTrial]:
        """Complete trials that no other beats in accuracy and parameters, by parameters."""
        front: list[FrozenTrial] = []
        for trial in sorted(self.trials(TrialState.COMPLETE), key=lambda t: (t.values[1], -t.values[0])):
            if not front or trial.values[0] > front[-1].values[0]:
                front.append(trial)
        return front

    def _running(self, number: int) -> FrozenTrial | None:
        trial = next(t for t in self.trials() if t.number == number)
        return trial if trial.state == TrialState.RUNNING else None


_ATTRIBUTES = ("design", "key", "params", "stage", "seed", "folds")


def _attributes(design: Design, params: int, stage: str, seed: int) -> dict[str, Any]:
    values = (design.to_dict(), design.key, params, stage, seed, 1)
    return dict(zip(_ATTRIBUTES, values, strict=True))


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial was cut off by the end of its search, not by its own fault."""
    return bool(trial.user_attrs.get("interrupted"))


def design_of(trial: FrozenTrial | Trial) -> Design:
    """The design of a trial."""
    return Design.from_dict(trial.user_attrs["design"])


def row_of(trial: FrozenTrial) -> TrialRow:
    """A trial as plain data."""
    last = max(trial.intermediate_values, default=0)
    attributes = trial.user_attrs
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        stage=attributes.get("stage", "search"),
        design=attributes.get("design", {}),
        key=attributes.get("key", ""),
        params=attributes.get("params", 0),
        val=trial.intermediate_values.get(last),
        epochs=attributes.get("epochs", last),
        seconds=attributes.get("seconds", 0.0),
    )


def as_json(record: StudyRecord) -> dict[str, Any]:
    """The study as `petlas study --format json` prints it."""
    best = record.best()
    return {
        "trials": [asdict(row_of(t)) for t in record.trials()],
        "best": asdict(row_of(best)) if best else None,
        "pareto": [asdict(row_of(t)) for t in record.pareto()],
    }
