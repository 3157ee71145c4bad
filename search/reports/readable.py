"""A study as people and Optuna's own tools read it: parameters have names such as `lora@03`, and their sizes as values.

The study of a run keeps places of choices in the search space, as samplers need them; and known designs and finalists
have no parameters there. Here every trial has those of its design, and the run's own settings where it has none.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from petlas.search.config import RunConfig
from petlas.search.study import FOLDS, SCORE, StudyRecord, candidate_of, is_trained
from petlas.spaces import Candidate

KINDS: dict[str, Callable[[FrozenTrial], bool]] = {
    "": is_trained,
    "scores": lambda trial: trial.user_attrs.get("stage") == SCORE,
    "folds": lambda trial: trial.user_attrs.get("stage") == FOLDS,
}
"""Which trials can be compared with each other: those that were trained, scores with inherited weights, and folds."""

_LOG = 10.0
"""Settings that span so many times their least value are told on a logarithmic scale."""
_TOLD = (
    "stage", "params", "cost", "epochs", "of_epochs", "seed", "fold", "folds", "repeat", "images", "seconds", "device",
    "key", "error",
)  # fmt: skip


def readable_study(config: RunConfig) -> optuna.Study:
    """The trainings of a run's study, as `readable_studies` gives them, in memory.

    Args:
        config: The run's.

    Raises:
        UserError: When the run has no study.
    """
    return readable_studies(config, InMemoryStorage())[0]


def readable_studies(config: RunConfig, storage: BaseStorage) -> list[optuna.Study]:
    """Copies of a run's study for Optuna's plots, importances and dashboard, one for each of `KINDS` that has trials.

    A method at a block is an integer parameter `METHOD@BLOCK`, over the whole backbone `METHOD`: its size, 1 for a
    method without sizes, 0 where it is absent. Settings are floats. States, values and times are kept; a trial's number
    in the run is its attribute `number`.

    Args:
        config: The run's.
        storage: Where they are put.

    Raises:
        UserError: When the run has no study.
    """
    record = StudyRecord.read(config.folder, config.storage)
    trials = record.trials()
    groups = {kind: [trial for trial in trials if counts(trial)] for kind, counts in KINDS.items()}
    return [_copied(config, record, kind, own, storage) for kind, own in groups.items() if own or not kind]


def _copied(
    config: RunConfig, record: StudyRecord, kind: str, trials: Sequence[FrozenTrial], storage: BaseStorage
) -> optuna.Study:
    candidates = [candidate_of(trial) for trial in trials]
    digits = len(str(max((p.block or 0 for c in candidates for p in c.design.placements), default=0)))
    rows = [sizes_of(candidate, digits) | dict(candidate.settings) for candidate in candidates]
    settings = sorted({name for candidate in candidates for name, _ in candidate.settings})
    usual = {name: 0 for row in rows for name in row} | {name: config.train.usual(name) for name in settings}
    whole = [usual | row for row in rows]
    distributions = {name: _distribution([row[name] for row in whole], name in settings) for name in sorted(usual)}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best = StudyDirection.MAXIMIZE if record.maximize else StudyDirection.MINIMIZE
    study = optuna.create_study(
        storage=storage,
        study_name=f"{record.name}: {kind}" if kind else record.name,
        directions=[best, *[StudyDirection.MINIMIZE] * (record.objectives - 1)],
    )
    metric = record.about.get("metric", {}).get("name", config.search.objectives[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([metric, *config.search.objectives[1:]])
    for trial, candidate, params in zip(trials, candidates, whole, strict=True):
        study.add_trial(_named(trial, candidate, params, distributions))
    return study


def sizes_of(candidate: Candidate, digits: int = 1) -> dict[str, float]:
    """A candidate's sizes by place, such as `{"lora@3": 8}`; 1 for a method without sizes.

    Args:
        candidate: The candidate.
        digits: How many each block has at least: with as many for all, they are in order as text.
    """
    return {
        p.method if p.block is None else f"{p.method}@{p.block:0{digits}}": 1 if p.size is None else p.size
        for p in candidate.design.placements
    }


def _distribution(values: Sequence[float], setting: bool) -> BaseDistribution:
    low, high = min(values), max(values)
    if setting:
        return FloatDistribution(low, high, log=low > 0 and high >= _LOG * low)
    return IntDistribution(0, int(high))


def _named(
    trial: FrozenTrial, candidate: Candidate, params: Mapping[str, float], distributions: dict[str, BaseDistribution]
) -> FrozenTrial:
    found = copy.copy(trial)
    found.distributions, found.params = distributions, {name: params[name] for name in distributions}
    told = {name: trial.user_attrs[name] for name in _TOLD if name in trial.user_attrs}
    found.user_attrs = {"number": trial.number, "design": str(candidate)} | told
    return found
