"""What a trial of the study says: which candidate it tried, at which fidelity, why, and what came of it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from petlas.petl.design import Design
from petlas.search.selection import Known
from petlas.search.training.fidelity import Fidelity
from petlas.spaces import Candidate

BASELINE = "baseline"
"""A known strong design."""
SEARCH = "search"
"""Drawn by the sampler."""
SCORE = "score"
"""Scored with inherited weights, not trained."""
FINALIST = "finalist"
"""Among the best by score."""
SENSITIVITY = "sensitivity"
"""Given its budget by the sensitivity of the weights."""
RANKING = "ranking"
"""Trained to see how well scores rank designs."""
FOLDS = "folds"
"""Measured anew on a fold of train and val, to be compared with the other finalists."""

PORTFOLIO = "portfolio"
"""Strong across tasks, measured in a short training."""
VARIED = "varied"
"""Made from the leaders of a search, measured in a short training."""
HALVING = "halving"
"""Among the best so far, measured on another fold and in a longer training."""

SHORT = "short"
"""The attribute of a trial that was to have fewer epochs than a whole training, and had them all."""

REPEAT = "repeat"
"""The attribute of a trial on a fold of another deal than the first: how often the images were dealt anew before."""

UNCOUNTED = "uncounted"
"""The attribute of a trial that was lost where others may be to blame, or with less room than it will have."""

DRAWN = (SEARCH, FINALIST)
"""Trials that halving may stop; the others are there to be compared with."""


_OPTIONAL = ("cost", "expected", "number")
"""What an entry may leave open, by its attributes' names; the sampler knows its draws by the last one."""

Identity = tuple[str, Fidelity, bool]
"""A candidate's key, at what price it is measured, and whether it is trained: no two trials have the same."""


@dataclass(frozen=True)
class Entry:
    """What is to be tried: a candidate at a fidelity, and which stage asks for it.

    Args:
        candidate: What is tried.
        fidelity: At what price.
        stage: One of this module's names.
        params: Trainable parameters of its design, head excluded.
        cost: What the run trades against its metric, where that is not the parameters.
        expected: What it is worth on other tasks, in shares of images, by those of other candidates, on each backbone
            that was recorded; None if unknown.
        number: Which draw of its stage's sampler it is, from 0; None where there is none. A search that goes on draws
            the numbers that are missing.
    """

    candidate: Candidate
    fidelity: Fidelity
    stage: str
    params: int
    cost: float | None = None
    expected: tuple[float, ...] | None = None
    number: int | None = field(default=None, compare=False)

    @property
    def identity(self) -> Identity:
        """What may be tried once: the candidate, its fidelity, and whether it is trained or only scored."""
        return self.candidate.key, self.fidelity, self.stage != SCORE

    def attributes(self) -> dict[str, Any]:
        """The user attributes that say all of this."""
        return (
            {
                "design": self.candidate.design.to_dict(),
                "settings": dict(self.candidate.settings),
                "key": self.candidate.key,
                "params": self.params,
                "stage": self.stage,
                "of_epochs": self.fidelity.epochs,
                "seed": self.fidelity.seed,
                "fold": self.fidelity.fold,
                "folds": self.fidelity.folds,
            }
            | ({REPEAT: self.fidelity.repeat} if self.fidelity.repeat else {})
            | {name: own for name in _OPTIONAL if (own := getattr(self, name)) is not None}
        )

    @classmethod
    def of_attributes(cls, attributes: dict[str, Any]) -> Entry:
        """What user attributes say: the inverse of `attributes`."""
        epochs, seed, fold, folds = (attributes[key] for key in ("of_epochs", "seed", "fold", "folds"))
        fidelity = Fidelity(epochs, seed, fold, folds, attributes.get(REPEAT, 0))
        candidate = Candidate(Design.from_dict(attributes["design"]), tuple(attributes["settings"].items()))
        optional = {name: attributes.get(name) for name in _OPTIONAL}
        if (expected := optional["expected"]) is not None:
            # One number in studies of before DINOv2 was recorded.
            optional["expected"] = tuple(expected if isinstance(expected, list) else [expected])
        return cls(candidate, fidelity, attributes["stage"], attributes["params"], **optional)


@dataclass(frozen=True)
class TrialRow:
    """One trial, as `petlas study --format json` prints it.

    `val` is the last measured value, or the score; `repeat` how often images were dealt anew before to the folds.
    """

    number: int
    state: str
    stage: str
    design: dict[str, Any]
    settings: dict[str, float]
    key: str
    params: int
    val: float | None
    epochs: int
    seconds: float
    fold: int | None
    repeat: int | None
    device: str | None


@dataclass(frozen=True)
class BelievedRow(TrialRow):
    """A candidate of which no training alone says what it is worth: `val` is what is believed of it.

    The rest is of its longest training, but for the fold: `val` is of all of them.

    Args:
        val_error: The standard error of `val`.
        believed: So that it says what it is where it is printed.
    """

    val_error: float
    believed: bool = True


def entry_of(trial: FrozenTrial) -> Entry:
    """What a trial tries."""
    return Entry.of_attributes(trial.user_attrs)


def cost_of(attributes: Mapping[str, Any]) -> float:
    """What a trial's candidate costs: what the run trades against its metric, by default parameters."""
    return float(attributes.get("cost", attributes["params"]))


def candidate_of(trial: FrozenTrial) -> Candidate:
    """The candidate of a trial."""
    return entry_of(trial).candidate


def design_of(trial: FrozenTrial) -> Design:
    """The design of a trial."""
    return Design.from_dict(trial.user_attrs["design"])


def is_trained(trial: FrozenTrial) -> bool:
    """Whether the trial trains its candidate on train, rather than scoring it or measuring a fold."""
    return trial.user_attrs.get("stage") not in (SCORE, FOLDS)


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial was cut off by its surroundings, not by its own fault."""
    return bool(trial.user_attrs.get("interrupted"))


def value_of(trial: FrozenTrial) -> float | None:
    """The value of a whole trial, or the last one of a trial that was cut off."""
    values: list[float] | None = trial.values
    return values[0] if values else trial.intermediate_values.get(max(trial.intermediate_values, default=0))


def result_of(trial: FrozenTrial) -> float | None:
    """The value of a trial that had all epochs of its fidelity, be they those of a whole training or fewer."""
    if trial.state is TrialState.COMPLETE:
        return float(trial.values[0])
    return trial.intermediate_values.get(trial.user_attrs["of_epochs"]) if trial.user_attrs.get(SHORT) else None


def known_of(entry: Entry, maximize: bool = True) -> Known:
    """What is known of what is tried before it is measured.

    Args:
        entry: What is tried.
        maximize: Whether more is better of the task's metric.
    """
    settings, methods = dict(entry.candidate.settings), frozenset(entry.candidate.design.by_method)
    rate, sign = settings.pop("lr", None), 1 if maximize else -1
    expected = tuple(sign * value for value in entry.expected or ())
    return Known(methods, None if rate is None else math.log10(rate), expected, settings)


def row_of(trial: FrozenTrial) -> TrialRow:
    """A trial as plain data."""
    attributes = trial.user_attrs
    fold = attributes.get("fold")
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        stage=attributes.get("stage", SEARCH),
        design=attributes.get("design", {}),
        settings=attributes.get("settings", {}),
        key=attributes.get("key", ""),
        params=attributes.get("params", 0),
        val=value_of(trial),
        epochs=attributes.get("epochs", max(trial.intermediate_values, default=0)),
        seconds=attributes.get("seconds", 0.0),
        fold=fold,
        device=attributes.get("device"),
        repeat=None if fold is None else attributes.get(REPEAT, 0),
    )


def complete(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that came to their end."""
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]
