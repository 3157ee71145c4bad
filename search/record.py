"""The study: an Optuna study in the run folder, the one truth about trials."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    BaseModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import insert
from sqlalchemy.orm import Session

from petlas.petl.design import Design

BASELINE = "baseline"
SEARCH = "search"
SCORE = "score"
"""Scored with inherited weights, not trained."""
FINALIST = "finalist"
SENSITIVITY = "sensitivity"
"""Given its budget by the sensitivity of the weights."""
RANKING = "ranking"
"""Trained to see how well scores rank designs."""

Choice = tuple[int, int]
"""A parameter's value, and the largest that it may take; the least is 0."""

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
"""Accuracy on the selection split, and trainable parameters."""


@dataclass(frozen=True)
class TrialRow:
    """One trial, as `petlas study --format json` prints it; `val` is the last measured accuracy, or the score."""

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
        self.storage = RDBStorage(url)
        known = optuna.get_all_study_names(self.storage) if alone else []
        self.name = name = known[0] if known else name
        self.study: Study = optuna.create_study(
            storage=self.storage, study_name=name, directions=DIRECTIONS, sampler=sampler, load_if_exists=True
        )
        self._filled: dict[int, FrozenTrial] = {}  # what `fill` wrote, so that `finish` need not read it

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
        """Write down what a trial is: all of it or, if the process is killed here, nothing."""
        with self._writing() as session:
            _insert(session, trial, TrialUserAttributeModel, _attribute_rows(_attributes(design, params, stage, seed)))

    def begin(self, stage: str) -> FrozenTrial:
        """Add a running trial of a stage, whose design is yet to be chosen.

        It is written to Optuna's tables, and so are `fill` and `finish`: Optuna's own functions take one transaction
        for each parameter and attribute, which costs more than scoring a design.
        """
        trial = create_trial(state=TrialState.RUNNING, user_attrs={"stage": stage})
        trial.datetime_start = datetime.now()
        model = TrialModel(study_id=self.study._study_id, state=trial.state, datetime_start=trial.datetime_start)
        with self._writing() as session:
            session.add(model)
            session.flush()
            model.number = trial.number = model.count_past_trials(session)
            trial._trial_id = int(model.trial_id)
            _insert(session, trial, TrialUserAttributeModel, _attribute_rows(trial.user_attrs))
        return trial

    def fill(self, trial: FrozenTrial, design: Design, params: int, seed: int, choices: Mapping[str, Choice]) -> None:
        """Write down what a trial of `begin` is.

        Args:
            trial: The trial.
            design: What is tried.
            params: Its trainable parameters.
            seed: Of its training.
            choices: Its Optuna parameters.
        """
        attributes = _attributes(design, params, trial.user_attrs["stage"], seed)
        trial.distributions = {name: IntDistribution(0, high) for name, (_, high) in choices.items()}
        trial.params = {name: value for name, (value, _) in choices.items()}
        rows = [
            {"param_name": name, "param_value": float(value), "distribution_json": _as_json(trial.distributions[name])}
            for name, value in trial.params.items()
        ]
        new = {key: value for key, value in attributes.items() if key not in trial.user_attrs}
        with self._writing() as session:
            _insert(session, trial, TrialUserAttributeModel, _attribute_rows(new))
            _insert(session, trial, TrialParamModel, rows)
        trial.user_attrs = attributes
        self._filled[trial.number] = trial

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
        """The keys of all designs that need not be trained again: interrupted trials and scores do not count."""
        trials = (t for t in self.trials() if is_trained(t) and not is_interrupted(t))
        return {t.user_attrs["key"] for t in trials if "key" in t.user_attrs}

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
        trial = self._filled.pop(number, None) or self._running(number)
        if trial is None:
            return
        epochs = max(epochs, *trial.intermediate_values, 0)
        attributes: dict[str, Any] = {"epochs": epochs, "seconds": round(seconds, 2)}
        if val is None or not math.isfinite(val):
            self._end(trial, TrialState.FAIL, attributes | {"error": why or "the loss is not finite"})
        elif complete:
            self._end(trial, TrialState.COMPLETE, attributes, [val, float(trial.user_attrs["params"])])
        else:
            self._end(trial, TrialState.PRUNED, attributes)

    def _end(
        self, trial: FrozenTrial, state: TrialState, attributes: Mapping[str, Any], values: Sequence[float] = ()
    ) -> None:
        """What `Study.tell` does, with attributes, in one transaction."""
        self.study.sampler.after_trial(self.study, trial, state, values or None)
        finite = TrialValueModel.TrialValueType.FINITE
        rows = [{"objective": i, "value": value, "value_type": finite} for i, value in enumerate(values)]
        with self._writing() as session:
            _insert(session, trial, TrialUserAttributeModel, _attribute_rows(attributes))
            _insert(session, trial, TrialValueModel, rows)
            model = TrialModel.find_or_raise_by_id(trial._trial_id, session)
            model.state, model.datetime_complete = state, datetime.now()

    def _writing(self) -> AbstractContextManager[Session]:
        """One transaction."""
        return _create_scoped_session(self.storage.scoped_session)

    def recover(self) -> int:
        """Mark trials that a dead search left RUNNING as FAIL, and queue those to be trained again.

        Call it only when no other process works on the study.

        Returns:
            How many there were.
        """
        self._filled.clear()
        stale = self.trials(TrialState.RUNNING)
        for trial in stale:
            self.storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            self.study.tell(trial.number, state=TrialState.FAIL)
        waiting = {t.user_attrs.get("key") for t in self.trials(TrialState.WAITING)}
        for trial in self.trials(TrialState.FAIL):
            key = trial.user_attrs.get("key")
            attributes = {k: v for k, v in trial.user_attrs.items() if k in _ATTRIBUTES}
            described = len(attributes) == len(_ATTRIBUTES)  # not so where an older petlas was killed meanwhile
            if described and is_interrupted(trial) and is_trained(trial) and key not in self.keys() | waiting:
                system = {"fixed_params": dict(trial.params)}
                self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs=system))
        return len(stale)

    def count_finished(self) -> int:
        """Trials that count against `search.trials`: all that were trained and not interrupted."""
        done = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return sum(is_trained(trial) and not is_interrupted(trial) for trial in done)

    def scored(self) -> list[FrozenTrial]:
        """The trials that have a score, the best first; of several, the one with the fewest parameters."""
        scores = [t for t in self.trials(TrialState.COMPLETE) if not is_trained(t)]
        return sorted(scores, key=lambda t: (-t.values[0], t.values[1], t.number))

    def count_running(self) -> int:
        """Trials that are being trained."""
        return len(self.trials(TrialState.RUNNING))

    def best(self) -> FrozenTrial | None:
        """The trial with the highest accuracy after all epochs; of several, the one with the fewest parameters."""
        complete = [t for t in self.trials(TrialState.COMPLETE) if is_trained(t)]
        return max(complete, key=lambda t: (t.values[0], -t.values[1], -t.number), default=None)

    def pareto(self) -> list[FrozenTrial]:
        """Trials trained to the end that no other beats in accuracy and parameters, by parameters."""
        front: list[FrozenTrial] = []
        complete = [t for t in self.trials(TrialState.COMPLETE) if is_trained(t)]
        for trial in sorted(complete, key=lambda t: (t.values[1], -t.values[0])):
            if not front or trial.values[0] > front[-1].values[0]:
                front.append(trial)
        return front

    def _running(self, number: int) -> FrozenTrial | None:
        trial = self.trials()[number]
        return trial if trial.state == TrialState.RUNNING else None


_ATTRIBUTES = ("design", "key", "params", "stage", "seed", "folds")


def _attributes(design: Design, params: int, stage: str, seed: int) -> dict[str, Any]:
    values = (design.to_dict(), design.key, params, stage, seed, 1)
    return dict(zip(_ATTRIBUTES, values, strict=True))


def _attribute_rows(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _insert(session: Session, trial: FrozenTrial | Trial, table: type[BaseModel], rows: list[dict[str, Any]]) -> None:
    """Add what belongs to a trial."""
    if rows:
        session.execute(insert(table), [{"trial_id": trial._trial_id} | row for row in rows])


_as_json = cache(distribution_to_json)


def is_trained(trial: FrozenTrial) -> bool:
    """Whether the trial trains its design, rather than scoring it with inherited weights."""
    return trial.user_attrs.get("stage") != SCORE


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
        val=trial.values[0] if trial.values else trial.intermediate_values.get(last),
        epochs=attributes.get("epochs", last),
        seconds=attributes.get("seconds", 0.0),
    )
