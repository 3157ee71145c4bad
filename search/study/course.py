"""The course of a search by beliefs: what each of its stages cost, and what it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from optuna.trial import FrozenTrial

from petlas.search.selection import Beliefs
from petlas.search.study.reading import StudyReader
from petlas.search.study.trials import HALVING, PORTFOLIO, VARIED, candidate_of, entry_of
from petlas.search.training.fidelity import Fidelity
from petlas.spaces import Candidate

Belief = tuple[float, float]
"""What a candidate is worth, and the standard error of that."""


@dataclass(frozen=True)
class Step:
    """Trainings at one fidelity.

    Args:
        stage: Why.
        epochs: Of each.
        trials: How many there were.
        R: What they cost.
        best: The candidate that was believed to be the best after them.
        before: What was believed of it before; None if nothing.
        after: What was believed of it after them.
    """

    stage: str
    epochs: int
    trials: int
    R: float
    best: Candidate
    before: Belief | None
    after: Belief


def course(record: StudyReader) -> list[Step]:
    """The steps of a search by `auto`, in their order; none of other searches.

    Args:
        record: Its study.
    """
    found: list[Step] = []
    own, seen = record.counted(PORTFOLIO, VARIED, HALVING), frozenset[int]()
    params = {trial.user_attrs["key"]: trial.user_attrs["params"] for trial in own}
    before = _after(record, seen)
    for (stage, epochs, *_), group in groupby(own, key=_fidelity):
        trials = list(group)
        seen |= {trial.number for trial in trials}
        beliefs = _after(record, seen)
        longest = {key: params[key] for key in record.evidence(_among(seen)).partly}  # others are not chosen
        ranked = beliefs.ranked(longest, record.maximize)
        if ranked:
            best = ranked[0]
            candidate = next(candidate_of(trial) for trial in own if trial.user_attrs["key"] == best)
            known = before.of(best) if best in before.keys else None
            cost = sum(map(record.cost, trials))
            found.append(Step(stage, epochs, len(trials), cost, candidate, known, beliefs.of(best)))
        before = beliefs
    return found


def _after(record: StudyReader, seen: frozenset[int]) -> Beliefs:
    return record.beliefs(_among(seen))


def _among(seen: frozenset[int]) -> Callable[[FrozenTrial], bool]:
    return lambda trial: trial.number in seen


def _fidelity(trial: FrozenTrial) -> tuple[str, int, Fidelity]:
    fidelity = entry_of(trial).fidelity
    return trial.user_attrs["stage"], fidelity.epochs, fidelity
