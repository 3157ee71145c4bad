"""Spaces, a made-up objective and a search loop for the tests of this folder."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from petlas.petl.design import Design
from petlas.search.samplers.learning import LearningStudy
from petlas.spaces import Budget, Candidate, Space

SIZES = {"blocks": "all", "sizes": [0, 1, 5, 10]}
LR = {"low": 3e-4, "high": 2e-2, "log": True}
PLAIN = Space.from_dict({"methods": {"lora": SIZES, "adapter": SIZES}}, 6)
DEEP = Space.from_dict({"methods": {"lora": SIZES, "adapter": SIZES}, "depth": {"lora": [2, 4, 6]}}, 6)
TUNED = Space.from_dict({"methods": {"lora": SIZES, "adapter": SIZES}, "settings": {"lr": LR}}, 6)
CHOSEN = Space.from_dict(
    {"methods": {"lora": SIZES}, "settings": {"weight_decay": [1e-4, 1e-2], "lr": [1e-3, 3e-3]}, "depth": [2, 6]}, 6
)
SPACES = {"plain": PLAIN, "deep": DEEP, "tuned": TUNED, "chosen": CHOSEN}

DIRECTIONS = ("maximize", "minimize")


def cost(design: Design) -> int:
    return sum({"lora": 3, "adapter": 2}[p.method] * (p.size or 1) for p in design.placements)


def accuracy(candidate: Candidate) -> float:
    """Likes LoRA in late blocks, and a learning rate of 3e-3."""
    placements = candidate.design.placements
    value = sum((p.block or 0) * (p.size or 0) * (1 if p.method == "lora" else -1) for p in placements) / 100
    return value - abs(math.log(dict(candidate.settings).get("lr", 3e-3) / 3e-3))


def new_study(sampler: BaseSampler | None, objectives: int = 2) -> LearningStudy:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return LearningStudy(DIRECTIONS[:objectives], sampler)


def raw_study(sampler: BaseSampler | None, objectives: int = 2, **options: Any) -> optuna.Study:
    """An ordinary study of Optuna."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=DIRECTIONS[:objectives], sampler=sampler, **options)


def run(study: optuna.Study, space: Space, budget: Budget, trials: int, first: int | None = None) -> list[Candidate]:
    """Runs trials as a search does: every third is pruned with its intermediate values, every tenth fails.

    Args:
        first: The number of the first trial in a longer study.
    """
    candidates, objectives = [], len(study.directions)
    for index in range(trials):
        trial = study.ask()
        if first is not None:
            trial.set_user_attr("number", first + index)
        candidate = space.suggest(trial, budget)
        candidates.append(candidate)
        trial.set_user_attr("key", candidate.key)
        if trial.number % 10 == 9:
            study.tell(trial, state=TrialState.FAIL)
        elif trial.number % 3 == 2:
            if isinstance(study, LearningStudy):
                study.report(trial.number, 1, accuracy(candidate))
            elif objectives == 1:
                trial.report(accuracy(candidate), 1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [accuracy(candidate), cost(candidate.design)][:objectives])
    return candidates
