"""What a search has cost so far and will still cost, in R: by its plan at first, then by what its trials came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from petlas.search.study import DRAWN, SCORE, is_interrupted, price

if TYPE_CHECKING:
    from petlas.search.strategies.base import StageCost

_SCORES = "scores"
_CHORES = ("supernet", "sensitivity")
"""Stages whose work is no trial."""
_FEW = 3
"""Of fewer trials that could be stopped it is not told how many are."""


class Reckoned(NamedTuple):
    """R that are spent, and those that are still to come."""

    used: float
    left: float


def reckon(
    costs: Sequence[StageCost], trials: Sequence[FrozenTrial], about: Mapping[str, Any], progress: Mapping[str, float]
) -> Reckoned:
    """What a search costs, as far as can be told now.

    What is planned and not begun counts at its full price, less what trials have saved so far that could be stopped
    early: halving ends most of them long before their last epoch.

    Args:
        costs: The stages of its plan, each at its full price.
        trials: All of its study.
        about: What the study is of.
        progress: How much is done of the work that is no trial, by its stage, from 0 to 1.
    """
    counted = [trial for trial in trials if not is_interrupted(trial)]
    scores = sum(trial.user_attrs["stage"] == SCORE and trial.state.is_finished() for trial in counted)
    done = {chore: 1.0 if counted else progress.get(chore, 0.0) for chore in _CHORES}  # they come first
    used = left = 0.0
    for cost in costs:
        if cost.stage in _CHORES or cost.stage == _SCORES:
            share = min(1.0, scores / cost.trials) if cost.stage == _SCORES else done[cost.stage]
            used, left = used + share * cost.R, left + (1 - share) * cost.R
    trained = [trial for trial in counted if trial.user_attrs["stage"] != SCORE]
    spent = sum(price(trial, about) for trial in trained)
    ended = [trial for trial in trained if trial.state != TrialState.RUNNING]
    running = [trial for trial in trained if trial.state == TrialState.RUNNING]
    planned = sum(cost.R for cost in costs if cost.stage not in (*_CHORES, _SCORES))
    open_ = max(0.0, planned - sum(_full(trial, about) for trial in ended)) * _thrift(ended, about)
    return Reckoned(used + spent, left + max(0.0, open_ - sum(price(trial, about) for trial in running)))


def _thrift(ended: Sequence[FrozenTrial], about: Mapping[str, Any]) -> float:
    """What trials cost that could be stopped early, by what they would have cost otherwise."""
    drawn = [trial for trial in ended if trial.user_attrs["stage"] in DRAWN]
    full = sum(_full(trial, about) for trial in drawn)
    return sum(price(trial, about) for trial in drawn) / full if len(drawn) >= _FEW and full else 1.0


def _full(trial: FrozenTrial, about: Mapping[str, Any]) -> float:
    """The price of a trial with all epochs that it may have."""
    return price(trial, about, epochs=trial.user_attrs["of_epochs"])
