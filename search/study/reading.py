"""Reading the study of a run: its trials, and what selection makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import fmean
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from petlas.search.selection import (
    Agreement,
    Beliefs,
    Evidence,
    Known,
    Measurement,
    Scale,
    agreement_of,
    believe,
    choose,
    choose_by_belief,
    pareto,
    scale_of,
)
from petlas.search.selection.bits import unpack_bits, unpack_numbers
from petlas.search.study.trials import (
    RANKING,
    SCORE,
    UNCOUNTED,
    Entry,
    Identity,
    complete,
    cost_of,
    entry_of,
    is_interrupted,
    is_trained,
    known_of,
    result_of,
)

ABOUT = "about"
"""The study's attribute that says what it is of."""
ELAPSED = "seconds"
"""The study's attribute that says how long searching took."""
PRIOR = "prior"
"""The study's attribute that has the recipes of the user's earlier runs."""
CORRECT = "correct"
"""The trial's attribute that has a bit for each image that it was measured on: whether it was told right."""
CLASSES = "classes"
"""The trial's attribute that has the class of each of those, where the metric weighs images by their classes."""
FIRST_LOSS = "first_loss"
"""The trial's attribute that has the training loss of its first epoch."""


_LOOKED_AT = 60
"""So many of the best by score are looked at when trainings count, too."""


class StudyReader:
    """Reads the study of one run.

    Args:
        storage: Where the study lies.
        name: Its name there.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self.storage, self.name = storage, name
        self._id = storage.get_study_id_from_name(name)

    # What the study is of

    @property
    def about(self) -> dict[str, Any]:
        """What the study is of: the run's settings, fingerprints, metric and image counts; empty for a new one."""
        about: dict[str, Any] = self.storage.get_study_user_attrs(self._id).get(ABOUT, {})
        return about

    @property
    def prior(self) -> list[dict[str, Any]] | None:
        """What the user's earlier runs suggested; None where that is not settled yet."""
        found: list[dict[str, Any]] | None = self.storage.get_study_user_attrs(self._id).get(PRIOR)
        return found

    @property
    def elapsed(self) -> float:
        """Seconds that searching took in all processes so far."""
        return float(self.storage.get_study_user_attrs(self._id).get(ELAPSED, 0.0))

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
        whole = complete(self._whole().values())
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

    def first_losses(self, stage: str, keys: Collection[str] | None = None) -> list[float]:
        """The training losses of the first epochs of a stage's trials that came to their end.

        Args:
            stage: Of the trials.
            keys: Of the candidates that are looked at; None for all.
        """
        ended = [trial for trial in self.counted(stage) if result_of(trial) is not None]
        ended = [trial for trial in ended if keys is None or trial.user_attrs["key"] in keys]
        return [trial.user_attrs[FIRST_LOSS] for trial in ended if FIRST_LOSS in trial.user_attrs]

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
        """How often in a row an entry was cut off with a reason, such as a worker that died, and had learned no more.

        A trial of it that is running counts as cut off now. Who learned an epoch more begins its count anew.
        """
        count, reached = 0, 0
        for trial in self.trials():
            if trial.user_attrs.get("key") != entry.candidate.key or entry_of(trial).identity != entry.identity:
                continue
            epochs = max(trial.intermediate_values, default=0)
            if epochs > reached:
                count, reached = 0, epochs
            elif trial.state == TrialState.RUNNING or (
                is_interrupted(trial) and "error" in trial.user_attrs and UNCOUNTED not in trial.user_attrs
            ):
                count += 1
        return count

    def cost(self, trial: FrozenTrial) -> float:
        """`price` of a trial of this study.

        Args:
            trial: The trial.
        """
        return price(trial, self.about)

    # Selection

    def evidence(self, counts: Callable[[FrozenTrial], bool] = lambda trial: True) -> Evidence:
        """What was measured of every candidate, by fidelity: trials that had all epochs of theirs, and folds.

        Args:
            counts: Whether a trial is looked at.
        """
        images = self.about.get("images", {}).get("val", 0)
        rows, epochs = [], 0
        for trial in self.counted():
            value = result_of(trial)
            if value is not None and trial.user_attrs["stage"] != SCORE and counts(trial):
                entry = entry_of(trial)
                epochs = max(epochs, entry.fidelity.epochs)
                rows.append((entry.candidate.key, entry.fidelity, _measured(trial.user_attrs, value, images)))
        return Evidence.of(rows, epochs, shares=self.about.get("metric", {}).get("paired", True))

    def beliefs(
        self, counts: Callable[[FrozenTrial], bool] = lambda trial: True, others: Iterable[Entry] = ()
    ) -> Beliefs:
        """What is believed of every candidate that was measured, and of others.

        Args:
            counts: Whether a trial is looked at.
            others: Candidates that were not measured.
        """
        return self._believe(self.evidence(counts), others)

    @property
    def believed(self) -> Beliefs | None:
        """What candidates are compared by where each was measured on some folds alone; None where on one split."""
        evidence = self.evidence()
        return self._believe(evidence) if evidence.partly and not evidence.values else None

    def best(self) -> FrozenTrial | None:
        """The trial of the candidate that selection chooses, at all epochs on train and val; None if none ended."""
        whole, evidence = self._whole(), self.evidence()
        if evidence.values:
            key = choose(evidence, _params(whole), self.maximize)
        else:  # also where some have all folds by chance: the others are known by what is believed of them
            key = choose_by_belief(evidence, _params(whole), self._known(), self.maximize)
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

    @property
    def score_scale(self) -> Scale | None:
        """How scores are to be read; None where none was checked, or they rank no better than chance."""
        found = self.agreement()
        if found is None:
            return None
        images = self.about.get("images", {}).get("val", 0)
        shares = images and self.about.get("metric", {}).get("paired", True)
        values = [abs(value) for _, _, value in found.points]
        return scale_of(found, fmean(v * (1 - v) / images for v in values) if shares else 0.0)

    def shortlist(self, count: int) -> list[FrozenTrial]:
        """The best designs by score; where scores were checked, by what they and the trainings say together.

        Args:
            count: How many at most.
        """
        scored, scale = self.scored(), self.score_scale
        if scale is None:
            return scored[:count]
        sign = 1 if self.maximize else -1
        evidence = self.evidence(lambda trial: trial.user_attrs["stage"] == RANKING)  # what came later must not count
        trained = evidence.measured.keys()
        looked_at = [t for i, t in enumerate(scored) if i < _LOOKED_AT or t.user_attrs["key"] in trained]
        rows = [(key, f, m) for key, own in evidence.measured.items() for f, m in own.items()]
        for trial in looked_at:
            value = sign * scale.value(sign * trial.values[0])
            rows.append((trial.user_attrs["key"], entry_of(trial).fidelity, Measurement(value, 0, error=scale.error)))
        found = self._believe(Evidence.of(rows, evidence.epochs, evidence.shares))
        by_key = {trial.user_attrs["key"]: trial for trial in looked_at}
        params = {key: trial.user_attrs["params"] for key, trial in by_key.items()}
        return [by_key[key] for key in found.ranked(params, self.maximize)[:count]]

    def _believe(self, evidence: Evidence, others: Iterable[Entry] = ()) -> Beliefs:
        untried = {entry.candidate.key: known_of(entry, self.maximize) for entry in others}
        return believe(evidence, self._known(), maximize=self.maximize, others=untried)

    def _whole(self) -> dict[str, FrozenTrial]:
        """For each candidate, its first trial that came to its end with as many epochs as any had."""
        ended = [trial for trial in self.trained() if result_of(trial) is not None]
        most = max((trial.user_attrs["of_epochs"] for trial in ended), default=0)
        return {t.user_attrs["key"]: t for t in reversed(ended) if t.user_attrs["of_epochs"] == most}

    def _known(self) -> dict[str, Known]:
        """What was known of each candidate before it was measured."""
        tried = (entry_of(trial) for trial in self.counted() if "key" in trial.user_attrs)
        return {entry.candidate.key: known_of(entry, self.maximize) for entry in tried}


def _measured(attributes: Mapping[str, Any], value: float, images: int) -> Measurement:
    """What a trial measured; on so many images where it does not say on how many."""
    images = attributes.get("images", images)
    correct, classes = attributes.get(CORRECT), attributes.get(CLASSES)
    return Measurement(
        value,
        images,
        None if correct is None else unpack_bits(correct, images),
        None if classes is None else unpack_numbers(classes),
    )


def passes(epochs: int, train: float, val: float) -> float:
    """Passes over images of a training that is measured after each epoch, counted in training passes.

    Args:
        epochs: Of the training.
        train: Images that are learned from.
        val: Images that are measured on.
    """
    return epochs * (train + val / 3)


def price(trial: FrozenTrial, about: Mapping[str, Any], epochs: int | None = None) -> float:
    """What a trial cost, in R: its passes over images, by those of an ordinary training; one with a score has none.

    A training pass counts for three measuring ones. So it is the same on every machine.

    Args:
        trial: The trial.
        about: What its study is of.
        epochs: How many it had, where that is not to be read from it.
    """
    attributes, images, whole = trial.user_attrs, about.get("images", {}), about.get("epochs", 0)
    if attributes.get("stage") == SCORE or not whole:
        return 0.0
    train, val = images["train"], images["val"]
    held = val if attributes.get("fold") is None else attributes.get("images", val)
    if epochs is None:
        epochs = attributes.get("epochs", max(trial.intermediate_values, default=0))
    return passes(epochs, train + val - held, held) / passes(whole, train, val)


def _params(trials: Mapping[str, FrozenTrial]) -> dict[str, int]:
    """The trainable parameters of each candidate, in the order in which they were tried."""
    ordered = sorted(trials.items(), key=lambda item: item[1].number)
    return {key: trial.user_attrs["params"] for key, trial in ordered}
