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

from petlas.search.study.reading import ABOUT, ELAPSED, FIRST_LOSS, PRIOR, StudyReader
from petlas.search.study.storage import StorageError, open_storage
from petlas.search.study.trials import SHORT, UNCOUNTED, Entry, cost_of, entry_of, is_interrupted

ACCURACY, PARAMS = "accuracy", "params"
"""What a search may optimise: the task's metric, and trainable parameters."""


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


class StudyRecord(StudyReader):
    """Reads and writes the study of one run.

    A trial is added whole, as it starts: a process that is killed leaves no half described one. One process writes.

    Args:
        storage: Where the study lies.
        name: Its name there.
        check: Raises when this process may not write any more; called before each writing.
    """

    def __init__(self, storage: BaseStorage, name: str, check: Callable[[], None] = lambda: None) -> None:
        super().__init__(storage, name)
        self._check = check
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
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_storage(folder, url)
        name = _name_in(storage, folder, url)
        if name in optuna.get_all_study_names(storage):
            record = cls(storage, name, check)
            if record.trials():
                return record
            storage.delete_study(storage.get_study_id_from_name(name))  # without trials: it may be of other settings
        best = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        directions = [best if objective == ACCURACY else StudyDirection.MINIMIZE for objective in objectives]
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

    def claim(self, about: Mapping[str, Any]) -> None:
        """Write down what the study is of."""
        self._owned.set_study_user_attr(self._id, ABOUT, dict(about))

    def settle(self, recipes: Sequence[Mapping[str, Any]]) -> None:
        """Write down what the user's earlier runs suggested: a resumed search begins with the same."""
        self._owned.set_study_user_attr(self._id, PRIOR, [dict(recipe) for recipe in recipes])

    def spend(self, seconds: float) -> None:
        """Write down how many seconds searching took so far."""
        self._owned.set_study_user_attr(self._id, ELAPSED, round(seconds, 1))

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
        before = cut[-1].user_attrs if cut else {}
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(parameters),
            distributions=dict(distributions),
            user_attrs=entry.attributes() | {k: v for k, v in before.items() if k == FIRST_LOSS},
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

    def note_loss(self, number: int, loss: float) -> None:
        """Keep the training loss of the first epoch of a running trial.

        Args:
            number: The trial.
            loss: The mean over the epoch.
        """
        if self._is_running(number):
            self._owned.set_trial_user_attr(self._trial_id(number), FIRST_LOSS, loss)

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
        if state == TrialState.PRUNED and ending.epochs >= self.trials()[number].user_attrs["of_epochs"]:
            attributes[SHORT] = True
        if state == TrialState.FAIL:
            attributes["error"] = ending.error or "the loss is not finite"
        self._end(number, state, attributes, values)

    def outcome(self, number: int, ending: Ending) -> tuple[TrialState, list[float] | None]:
        """The state of a trial that ends, and its values: COMPLETE, PRUNED if it is short, FAIL without a number.

        Args:
            number: The trial.
            ending: What came of it.
        """
        if ending.error or ending.value is None or not math.isfinite(ending.value):
            return TrialState.FAIL, None
        attributes = self.trials()[number].user_attrs
        wanted = attributes["of_epochs"]  # none for a score
        if ending.epochs < wanted or 0 < wanted < self.about.get("epochs", 0):
            return TrialState.PRUNED, None  # also one that was to be short: it is no whole training
        return TrialState.COMPLETE, [ending.value, cost_of(attributes)][: self.objectives]

    def lose(self, number: int, why: str = "", counts: bool = True) -> None:
        """Mark a running trial as cut off by its surroundings: FAIL, but neither a result nor a try.

        Args:
            number: The trial.
            why: The reason, if one is known.
            counts: Whether that is one of its `losses`, and not what others may be to blame for.
        """
        if self._is_running(number):
            reason = {"error": why} if why else {}
            self._end(number, TrialState.FAIL, {"interrupted": True} | reason | ({} if counts else {UNCOUNTED: True}))

    def recover(self) -> int:
        """Mark trials that a dead search left RUNNING as cut off. Call it only when no other process works on it.

        Returns:
            How many there were.
        """
        stale = self.trials(TrialState.RUNNING)
        for trial in stale:
            self.lose(trial.number)
        return len(stale)

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


def _name_in(storage: BaseStorage, folder: Path, url: str | None) -> str:
    """The folder's name; in the folder's own journal, whatever name the study has: a run folder may be renamed."""
    known = [] if url is not None else optuna.get_all_study_names(storage)
    return known[0] if known else folder.absolute().name
