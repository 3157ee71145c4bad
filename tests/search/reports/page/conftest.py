"""A run as a page sees it, made of a few trials."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from petlas.search.config import RunConfig
from petlas.search.objectives import Metric
from petlas.search.predictions import About, Predictions
from petlas.search.reports.page.run import RunView
from petlas.search.reports.study_report import StudyReport
from petlas.search.study import BASELINE, SEARCH, row_of

EVIL = "<script>alert('x')</script> & $y$"
"""A name that must be shown as it is."""


def design(method: str, *sizes: int) -> dict[str, Any]:
    placements = [{"method": method, "block": block, "size": size} for block, size in enumerate(sizes) if size]
    return {"backbone": "vit_mini_patch16_64", "placements": placements}


@pytest.fixture
def trial() -> Callable[..., FrozenTrial]:
    """A trial by its number, value and design."""

    def trial(number: int, value: float | None, made: dict[str, Any], stage: str = SEARCH, **more: Any) -> FrozenTrial:
        params = more.pop("params", {})
        attributes = {
            "stage": stage, "design": made, "settings": {}, "key": f"key{number}", "params": 100 * (number + 1),
            "of_epochs": 2, "epochs": 2, "seconds": 3.0, "seed": 0, "fold": None, "folds": None,
        }  # fmt: skip
        pruned = value is None
        made_trial = optuna.trial.create_trial(
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            value=value,
            params=params,
            distributions={name: optuna.distributions.IntDistribution(0, 9) for name in params},
            user_attrs=attributes | more,
            intermediate_values={1: 0.5, 2: value or 0.6},
        )
        made_trial.number = number
        return made_trial

    return trial


@pytest.fixture
def predictions() -> Callable[..., Predictions]:
    """What a retrained design said of test images of two classes, or of as many as are named."""

    def predictions(said: list[Any], targets: list[Any], key: str = "key", seed: int = 0, **more: Any) -> Predictions:
        classes = more.get("classes", (f"{EVIL}0", f"{EVIL}1"))
        images = more.get("images", tuple(f"{n}.png" for n in range(len(said))))
        kind = np.array(targets).dtype
        sure = np.full(len(said), 0.9, np.float32)
        about = About(key, key, seed, more.get("test", "print"))
        return Predictions(about, classes, images, np.array(targets, kind), np.array(said, kind), sure)

    return predictions


@pytest.fixture
def view(make: Callable[..., RunConfig], trial: Callable[..., FrozenTrial]) -> Callable[..., RunView]:
    """A run of one baseline and some designs; what is given takes the place of what it has."""

    def view(values: tuple[float | None, ...] = (0.95, 0.9), name: str = "run", **more: Any) -> RunView:
        trials = more.pop("trials", None) or [
            trial(0, 0.93, design("adapter", 3, 3), BASELINE),
            *(trial(n, value, design("lora", n, 0, 4)) for n, value in enumerate(values, 1)),
        ]
        rows = [row_of(one) for one in trials]
        whole = [row for row in rows if row.state == "COMPLETE" and row.stage != "score"]
        best = max(whole, key=lambda row: row.val or 0.0, default=None)
        images = more.pop("images", 200)
        extra = {key: more.pop(key) for key in ("agreement", "pooled") if key in more}
        report = StudyReport(rows, best, whole, Metric("accuracy", paired=True), images, **extra)
        about = {"epochs": 2, "images": {"train": 800, "val": 200}}
        made = RunView(config=make(name=name), report=report, trials=trials, about=about, elapsed=60.0)
        return replace(made, **more)

    return view
