"""Retrain designs on train+val after the selection, measure them once on the test split, and hand the best one over."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

from petlas.petl.adapter_file import save_adapter
from petlas.petl.backbone import shape_by_name
from petlas.petl.design import Design
from petlas.petl.tuning import count_params
from petlas.search.card import model_card
from petlas.search.config import RunConfig
from petlas.search.record import BASELINE, StudyRecord, design_of, row_of
from petlas.search.run_folder import CHECKPOINTS, RunError, clear_checkpoints, opened, write_json, write_text
from petlas.search.training import TrainingRun, open_run_task

log = logging.getLogger("petlas")


@dataclass(frozen=True)
class Outcome:
    """A retrained design: accuracy on the selection split when it was searched, and on test over the seeds."""

    name: str
    design: dict[str, Any]
    params: int
    val: float | None
    test_mean: float
    test_std: float
    tests: list[float]
    seeds: list[int]


def choose(config: RunConfig, trial: int | None = None, file: Path | None = None) -> tuple[Design, float | None]:
    """The design to retrain, and its accuracy on the selection split: the best one, a trial's, or a file's.

    Raises:
        RunError: When the study has no such trial, or no trial that came to its end.
    """
    if file is not None:
        design, backbone = Design.load(file), shape_by_name(config.backbone.name, config.backbone.img_size).name
        if design.backbone not in (None, backbone):
            raise RunError(f"--design must be for the run's backbone {backbone}, and {file} is for {design.backbone}")
        return design, None
    record = StudyRecord.in_folder(config.folder, config.storage)
    if trial is None:
        best = record.best()
        if best is None:
            raise RunError(f"retraining needs a finished trial, and {config.folder} has none; run the search on")
        return design_of(best), best.values[0]
    found = next((t for t in record.trials() if t.number == trial and "design" in t.user_attrs), None)
    if found is None:
        raise RunError(f"--trial must be a trial of {config.folder}, got {trial}; petlas study lists them")
    return design_of(found), row_of(found).val


def retrain(config: RunConfig, design: Design, seeds: int, val: float | None = None) -> Outcome:
    """Train a design on train+val from the backbone with several seeds, test each once, and write `best/`.

    The adapter file is the first seed's, whatever the test says.

    Args:
        config: The run's configuration.
        design: What to train.
        seeds: How many seeds, from the run's own on.
        val: The design's accuracy on the selection split, for the report.
    """
    with opened(config) as folder:
        best = folder / "best"
        task = open_run_task(config)
        names = {"name": task.name, "fingerprint": task.fingerprint}

        def keep(model: nn.Module, test: float) -> None:
            score = {"test": test} | ({} if val is None else {"val": val})
            save_adapter(model, best / "adapter.safetensors", classes=task.classes, score=score, task=names)

        outcome = _measure("found", config, design, seeds, val, keep)
        write_text(best / "design.yaml", yaml.safe_dump(design.to_dict(), sort_keys=False))
        write_json(best / "metrics.json", asdict(outcome))
        write_text(best / "card.md", model_card(config, asdict(outcome), task.classes))
        return outcome


def retrain_baselines(config: RunConfig, seeds: int) -> list[Outcome]:
    """Retrain and test every baseline of the study in the same way; writes `baselines.json`."""
    with opened(config) as folder:
        record = StudyRecord.in_folder(folder, config.storage)
        rows = [t for t in record.trials() if t.user_attrs.get("stage") == BASELINE and t.values]
        outcomes = []
        for trial in rows:
            design = design_of(trial)
            name = ", ".join(design.by_method) or "linear"
            outcomes.append(_measure(name, config, design, seeds, trial.values[0]))
        write_json(folder / "baselines.json", [asdict(outcome) for outcome in outcomes])
        return outcomes


def _measure(
    name: str,
    config: RunConfig,
    design: Design,
    seeds: int,
    val: float | None,
    keep: Callable[[nn.Module, float], None] | None = None,
) -> Outcome:
    shape = shape_by_name(config.backbone.name, config.backbone.img_size)
    params = count_params(design, shape)
    numbers = [config.seed + i for i in range(seeds)]
    tests = []
    for seed in numbers:
        start = time.perf_counter()
        run = TrainingRun(config, design, seed, "trainval", None, checkpoints=config.folder / CHECKPOINTS)
        while not run.finished:
            result = run.epoch()
            if not math.isfinite(result.loss):
                why = f"retraining {name} with seed {seed} diverged in epoch {result.epoch}"
                raise RuntimeError(f"{why}; lower train.lr")
        test = run.test()
        if not math.isfinite(test):
            raise RuntimeError(f"retraining {name} with seed {seed} diverged in the last epoch; lower train.lr")
        seconds = time.perf_counter() - start
        log.info("retrained %-12s seed %d  test %5.1f%%  %5.0f s", name, seed, 100 * test, seconds)
        if keep is not None and seed == config.seed:
            keep(run.model, test)
        tests.append(test)
    clear_checkpoints(config.folder)
    std = float(np.std(tests, ddof=1)) if seeds > 1 else 0.0
    return Outcome(name, design.to_dict(), params, val, float(np.mean(tests)), std, tests, numbers)
