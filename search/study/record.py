"""Reading and writing the study of a run, the one truth about its trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from petlas.search.selection import Agreement, Evidence, Measurement, agreement_of, choose, pareto
from petlas.search.study.storage import StorageError, open_storage
from petlas.search.study.trials import (
    RANKING,
    SCORE,
    Entry,
    Identity,
    complete,
    cost_of,
    entry_of,
    is_interrupted,
    is_trained,
)

ACCURACY, PARAMS = "accuracy", "params"
"""What a search may optimise: the task's metric, and trainable parameters."""

_ABOUT = "about"
_ELAPSED = "seconds"


@dataclass(frozen=True)
class Ending:
    """What came of a trial.

    Args:
        epochs: How many it had.
        value: The task's metric at the end; None or not finite if it failed.
        seconds: What it took.
        error: Why it failed.
        more: Further attributes, such as the device.
    """

    epochs: int
    value: float | None
    seconds: float
    error: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


class StudyRecord:
    """Reads and writes the study of one run.

    A trial is added whole, as it starts: a process that is killed leaves no half described one. One process writes.

    Args:
        storage: Where the study lies.
        name: Its name there.
        check: Raises when this process may not write any more; called before each writing.
    """

    def __init__(self, storage: BaseStorage, name: str, check: Callable[[], None] = lambda: None) -> None:
        self.storage, self.name, self._check = storage, name, check
        self._id = storage.get_study_id_from_name(name)
        self._ids: dict[int, int] = {}  # of the trials that this process began

    @classmethod
    def create(
        cls,
        folder: Path,
        url: str | None = None,
        objectives: Sequence[str] = (ACCURACY,),
        maximize: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> StudyRecord:
        """The study of a run folder, made if there is none.

        Args:
            folder: The run folder; its name is the study's in a database of several runs.
            url: The database; None for the journal in the folder.
            objectives: `accuracy`, the task's metric, and perhaps a cost such as `params`.
            maximize: Whether more is better of the task's metric.
            check: Raises when this process may not write any more.

        Raises:
            StorageError: When the storage cannot be opened.
        """
        storage = open_storage(folder, url)
        name = _name_in(storage, folder, url)
        if name in optuna.get_all_study_names(storage):
            record = cls(storage, name, check)
            if record.trials():
                return record
            storage.delete_study(storage.get_study_id_from_name(name))  # without trials: it may be of other settings
        best = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        directions = [best if objective == ACCURACY else StudyDirection.MINIMIZE for objective in objectives]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        optuna.create_study(storage=storage, study_name=name, directions=directions)
        return cls(storage, name, check)

    @classmethod
    def read(cls, folder: Path, url: str | None = None) -> StudyRecord:
        """The study of a run folder that has one.

        Args:
            folder: The run folder.
            url: The database; None for the journal in the folder.

        Raises:
            StorageError: When there is none.
        """
        storage = open_storage(folder, url)
        try:
            return cls(storage, _name_in(storage, folder, url))
        except KeyError:
            raise StorageError(f"{folder} has no study yet; petlas search makes it") from None

    @property
    def _owned(self) -> BaseStorage:
        """The storage, to be written: only as long as nobody took the study over."""
        self._check()
        return self.storage

    # What the study is of

    @property
    def about(self) -> dict[str, Any]:
        """What the study is of: the run's settings, fingerprints, metric and image counts; empty for a new one."""
        about: dict[str, Any] = self.storage.get_study_user_attrs(self._id).get(_ABOUT, {})
        return about

    def claim(self, about: Mapping[str, Any]) -> None:
        """Write down what the study is of."""
        self._owned.set_study_user_attr(self._id, _ABOUT, dict(about))

    @property
    def elapsed(self) -> float:
        """Seconds that searching took in all processes so far."""
        return float(self.storage.get_study_user_attrs(self._id).get(_ELAPSED, 0.0))

    def spend(self, seconds: float) -> None:
        """Write down how many seconds searching took so far."""
        self._owned.set_study_user_attr(self._id, _ELAPSED, round(seconds, 1))

    @property
    def maximize(self) -> bool:
        """Whether more is better of the task's metric."""
        return bool(self.storage.get_study_directions(self._id)[0] == StudyDirection.MAXIMIZE)

    @property
    def objectives(self) -> int:
        """How many objectives the study has: the metric, and perhaps the parameters."""
        return len(self.storage.get_study_directions(self._id))

    # Reading trials

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in the given states, by number."""
        return self.storage.get_all_trials(self._id, deepcopy=False, states=states or None)

    def counted(self, *stages: str) -> list[FrozenTrial]:
        """The trials of some stages, all of them by default, that were not cut off by their surroundings."""
        return [
            trial
            for trial in self.trials()
            if not is_interrupted(trial) and (not stages or trial.user_attrs.get("stage") in stages)
        ]

    def trained(self) -> list[FrozenTrial]:
        """The trials that train a candidate on train, and were not cut off."""
        return [trial for trial in self.counted() if is_trained(trial)]

    def count_trained(self) -> int:
        """Candidates that count against `search.trials`: all that are trained, or were and not cut off."""
        return len({entry_of(trial).identity for trial in self.trained()})

    def leaders(self, count: int) -> list[FrozenTrial]:
        """The best candidates by their value on the selection split, at all epochs; of equal ones the smallest.

        Args:
            count: How many at most.
        """
        sign = -1 if self.maximize else 1
        whole = self._whole().values()
        return sorted(whole, key=lambda t: (sign * t.values[0], t.user_attrs["params"], t.number))[:count]

    def known(self) -> set[Identity]:
        """What need not be tried again: the identity of every entry that is running or came to an end."""
        return {entry_of(trial).identity for trial in self.counted()}

    def scored(self) -> list[FrozenTrial]:
        """The trials that have a score, the best first; of several, the one with the fewest parameters."""
        sign = -1 if self.maximize else 1
        scores = complete(self.counted(SCORE))
        return sorted(scores, key=lambda t: (sign * t.values[0], t.user_attrs["params"], t.number))

    def rung(self, epoch: int, but: int) -> list[float]:
        """The values of the other trained trials after an epoch.

        Args:
            epoch: The epoch.
            but: The number of the trial that asks.
        """
        others = (trial.intermediate_values for trial in self.trained() if trial.number != but)
        return [values[epoch] for values in others if epoch in values]

    # Selection

    def evidence(self) -> Evidence:
        """What was measured of every candidate, by fidelity: trials of all epochs, and folds."""
        images = self.about.get("images", {}).get("val", 0)
        rows, epochs = [], 0
        for trial in complete(self.counted()):
            if trial.user_attrs["stage"] != SCORE:
                entry = entry_of(trial)
                epochs = max(epochs, entry.fidelity.epochs)
                measured = Measurement(trial.values[0], trial.user_attrs.get("images", images))
                rows.append((entry.candidate.key, entry.fidelity, measured))
        return Evidence.of(rows, epochs, shares=self.about.get("metric", {}).get("paired", True))

    def best(self) -> FrozenTrial | None:
        """The trial of the candidate that selection chooses, at all epochs on train and val; None if none ended."""
        whole = self._whole()
        key = choose(self.evidence(), _params(whole), maximize=self.maximize)
        return None if key is None else whole[key]

    def pareto(self) -> list[FrozenTrial]:
        """Trials trained to the end that no other beats in value and cost, by cost: parameters, or what is traded."""
        whole = self._whole()
        ordered = sorted(whole.items(), key=lambda item: item[1].number)
        costs = {key: cost_of(trial.user_attrs) for key, trial in ordered}
        return [whole[key] for key in pareto(self.evidence(), costs, maximize=self.maximize)]

    def agreement(self) -> Agreement | None:
        """How well scores rank the candidates that were trained to check them; None for fewer than two."""
        sign = 1 if self.maximize else -1
        scores = {trial.user_attrs["key"]: sign * trial.values[0] for trial in self.scored()}
        checked = complete(self.counted(RANKING))
        return agreement_of((t.number, scores[t.user_attrs["key"]], sign * t.values[0]) for t in checked)

    def _whole(self) -> dict[str, FrozenTrial]:
        """For each candidate, its first trial that came to its end."""
        return {trial.user_attrs["key"]: trial for trial in reversed(complete(self.trained()))}

    # Writing trials

    def begin(
        self,
        entry: Entry,
        parameters: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        system: Mapping[str, Any],
    ) -> int:
        """Add a running trial; one that was cut off at the same fidelity hands its values on.

        Args:
            entry: What it tries.
            parameters: Its Optuna parameters.
            distributions: Their ranges.
            system: What a sampler keeps with a trial.

        Returns:
            Its number.
        """
        cut = [t for t in self.trials(TrialState.FAIL) if is_interrupted(t) and entry_of(t).identity == entry.identity]
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(parameters),
            distributions=dict(distributions),
            user_attrs=entry.attributes(),
            system_attrs=dict(system),
            intermediate_values=dict(cut[-1].intermediate_values) if cut else {},
        )
        trial_id = self._owned.create_new_trial(self._id, template_trial=template)
        number = self.storage.get_trial_number_from_id(trial_id)
        self._ids[number] = trial_id
        return number

    def report(self, number: int, epoch: int, value: float) -> None:
        """Keep the value after an epoch of a running trial.

        Args:
            number: The trial.
            epoch: From 1.
            value: The task's metric; NaN is not kept.
        """
        if self._is_running(number) and not math.isnan(value):
            self._owned.set_trial_intermediate_value(self._trial_id(number), epoch, value)

    def finish(self, number: int, ending: Ending) -> None:
        """End a trial, honestly; one that is finished already is left as it is.

        Args:
            number: The trial.
            ending: What came of it.
        """
        if not self._is_running(number):
            return
        state, values = self.outcome(number, ending)
        epochs = max(ending.epochs, *self.trials()[number].intermediate_values, 0)
        attributes = {"epochs": epochs, "seconds": round(ending.seconds, 2), **ending.more}
        if state == TrialState.FAIL:
            attributes["error"] = ending.error or "the loss is not finite"
        self._end(number, state, attributes, values)

    def outcome(self, number: int, ending: Ending) -> tuple[TrialState, list[float] | None]:
        """The state of a trial that ends, and its values: COMPLETE, PRUNED if stopped early, FAIL without a number.

        Args:
            number: The trial.
            ending: What came of it.
        """
        if ending.error or ending.value is None or not math.isfinite(ending.value):
            return TrialState.FAIL, None
        attributes = self.trials()[number].user_attrs
        if ending.epochs < attributes["of_epochs"]:
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, [ending.value, cost_of(attributes)][: self.objectives]

    def lose(self, number: int, why: str = "") -> None:
        """Mark a running trial as cut off by its surroundings: FAIL, but neither a result nor a try.

        Args:
            number: The trial.
            why: The reason, if one is known.
        """
        if self._is_running(number):
            self._end(number, TrialState.FAIL, {"interrupted": True} | ({"error": why} if why else {}))

    def recover(self) -> int:
        """Mark trials that a dead search left RUNNING as cut off. Call it only when no other process works on it.

        Returns:
            How many there were.
        """
        stale = self.trials(TrialState.RUNNING)
        for trial in stale:
            self.lose(trial.number)
        return len(stale)

    def cut_off(self) -> list[Entry]:
        """What was cut off and not tried again since, in the order in which it began: it goes first."""
        known = self.known()
        cut = (entry_of(trial) for trial in self.trials(TrialState.FAIL) if is_interrupted(trial))
        return list({entry.identity: entry for entry in cut if entry.identity not in known}.values())

    def failed(self) -> list[Entry]:
        """What was trained and failed by its own fault, and did not come to an end since."""
        trials = self.trained()
        ended = {entry_of(trial).identity for trial in trials if trial.state != TrialState.FAIL}
        failed = (entry_of(trial) for trial in trials if trial.state == TrialState.FAIL)
        return list({entry.identity: entry for entry in failed if entry.identity not in ended}.values())

    def losses(self, entry: Entry) -> int:
        """How often the surroundings of an entry gave a reason for cutting it off, such as a worker that died."""
        lost = (t for t in self.trials(TrialState.FAIL) if is_interrupted(t) and "error" in t.user_attrs)
        return sum(entry_of(trial).identity == entry.identity for trial in lost)

    def keep_system(self, number: int, system: Mapping[str, Any]) -> None:
        """Keep what a sampler adds to a trial after its end.

        Args:
            number: The trial, before it is finished.
            system: All that the sampler keeps with it.
        """
        for key in system.keys() - self.trials()[number].system_attrs.keys():
            self._owned.set_trial_system_attr(self._trial_id(number), key, system[key])

    def _is_running(self, number: int) -> bool:
        return self.trials()[number].state == TrialState.RUNNING

    def _end(
        self, number: int, state: TrialState, attributes: Mapping[str, Any], values: Sequence[float] | None = None
    ) -> FrozenTrial:
        trial_id = self._trial_id(number)
        for key, value in attributes.items():
            self._owned.set_trial_user_attr(trial_id, key, value)
        self._owned.set_trial_state_values(trial_id, state, values)
        return self.trials()[number]

    def _trial_id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self._id, number)
        return self._ids[number]


def _params(trials: Mapping[str, FrozenTrial]) -> dict[str, int]:
    """The trainable parameters of each candidate, in the order in which they were tried."""
    ordered = sorted(trials.items(), key=lambda item: item[1].number)
    return {key: trial.user_attrs["params"] for key, trial in ordered}


def _name_in(storage: BaseStorage, folder: Path, url: str | None) -> str:
    """The folder's name; in the folder's own journal, whatever name the study has: a run folder may be renamed."""
    known = [] if url is not None else optuna.get_all_study_names(storage)
    return known[0] if known else folder.absolute().name
