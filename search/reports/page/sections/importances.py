"""Which places, methods and settings mattered."""

from __future__ import annotations

import warnings
from collections import Counter

import optuna
from optuna.trial import FrozenTrial, TrialState

from petlas.search.reports.page.html import figure, text
from petlas.search.reports.page.run import RunView

FEWEST = 8
"""Trials that importances can be told from."""
_SHOWN = 20


def section(run: RunView) -> str:
    """Optuna's importances of the parameters that trials of one kind have in common."""
    stage, trials = _alike(run.trials)
    found = importances(trials) if len(trials) >= FEWEST else {}
    if not found:
        return ""
    names = list(found)[:_SHOWN][::-1]
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": [found[name] for name in names],
        "y": [text(name) for name in names],
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    return figure(
        f"The share of the variance of values that each parameter explains (fANOVA) in {len(trials)} whole trials of "
        f"stage {stage}. A parameter is a method and its block, or a setting; few trials make it a hint, no proof.",
        [bar],
        height=100 + 24 * len(names),
        xaxis={"title": {"text": "importance"}, "rangemode": "tozero"},
        yaxis={"automargin": True},
    )


def importances(trials: list[FrozenTrial]) -> dict[str, float]:
    """By Optuna; empty where it cannot tell any.

    Args:
        trials: Whole ones, each with the same parameters.
    """
    if len({trial.values[0] for trial in trials}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study()
        for trial in trials:
            single = optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.values[0]
            )
            study.add_trial(single)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: share for name, share in found.items() if share > 0}


def _alike(trials: list[FrozenTrial]) -> tuple[str, list[FrozenTrial]]:
    """The whole trials with parameters of the stage that has the most: values of other stages do not compare."""
    whole = [t for t in trials if t.state is TrialState.COMPLETE and t.params and t.user_attrs.get("fold") is None]
    stages = Counter(trial.user_attrs.get("stage", "") for trial in whole)
    if not stages:
        return "", []
    stage = stages.most_common(1)[0][0]
    return stage, [trial for trial in whole if trial.user_attrs.get("stage", "") == stage]
