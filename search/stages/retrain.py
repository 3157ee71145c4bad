"""Retraining on train+val after the selection: each seed is tested once, and the first is handed over."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from petlas.files import write_bytes, write_json, write_text
from petlas.petl import AdapterError, read_adapter_info, save_adapter
from petlas.search.config import RunConfig
from petlas.search.identity import check_identity
from petlas.search.objectives import Metric
from petlas.search.reports.card import model_card
from petlas.search.reports.provenance import provenance
from petlas.search.run_folder import CHECKPOINTS, RunError, opened
from petlas.search.selection import Pooled
from petlas.search.stages.training_run import TrainingRun
from petlas.search.strategies.baselines import baselines
from petlas.search.study import BASELINE, StorageError, StudyRecord, candidate_of, row_of
from petlas.search.study.trials import complete
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")

RETRAINED = "retrained"
"""Where the adapter file of every seed is kept."""
TEST_READS = "test_reads.json"
"""Who read the test split, and when."""

_SAID_EVERY = 15.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """A retrained candidate.

    Args:
        name: What it is called in tables.
        design: As plain data.
        settings: Its own, where they differ from the run's.
        params: Trainable parameters, head excluded.
        val: Its value on the selection split when it was searched; None if it was not.
        test_mean: The mean over the seeds.
        test_std: Their standard deviation, 0 for one seed.
        tests: Its value on test for each seed.
        seeds: The seeds.
        metric: What the values are of.
    """

    name: str
    design: dict[str, Any]
    settings: dict[str, float]
    params: int
    val: float | None
    test_mean: float
    test_std: float
    tests: list[float]
    seeds: list[int]
    metric: Metric


def choose(config: RunConfig, trial: int | None = None, file: Path | None = None) -> tuple[Candidate, float | None]:
    """What to retrain, and its value on the selection split: the best candidate, a trial's, or a file's.

    Args:
        config: The run's configuration.
        trial: A trial's number; None for the best one.
        file: A design's YAML file instead.

    Raises:
        RunError: When the study has no such trial, or no trial that came to its end.
        UserError: When the file is no design, or for another backbone.
    """
    if file is not None:
        candidate, backbone = Candidate.load(file), Workbench(config).shape.name
        if candidate.design.backbone not in (None, backbone):
            other = candidate.design.backbone
            raise RunError(f"--design must be for the run's backbone {backbone}, and {file} is for {other}")
        return candidate, None
    record = StudyRecord.read(config.folder, config.storage)
    if trial is None:
        best = record.best()
        if best is None:
            raise RunError(f"retraining needs a finished trial, and {config.folder} has none; run the search on")
        return candidate_of(best), row_of(best).val
    found = next((t for t in record.trials() if t.number == trial and "design" in t.user_attrs), None)
    if found is None:
        raise RunError(f"--trial must be a trial of {config.folder}, got {trial}; petlas study lists them")
    return candidate_of(found), row_of(found).val


def retrain(config: RunConfig, candidate: Candidate, seeds: int, val: float | None = None) -> Outcome:
    """Train a candidate on train+val from the backbone with several seeds, test each once, and write `best/`.

    The adapter file is the first seed's, whatever the test says. A seed that was retrained before is not trained, and
    the test split not read, again.

    Args:
        config: The run's configuration.
        candidate: What to train.
        seeds: How many seeds, from the run's own on.
        val: Its value on the selection split, for the report.

    Raises:
        UserError: When the data, the backbone or the candidate is at fault.
        RuntimeError: When a training diverges.
    """
    bench = Workbench(config)
    bench.check(test=True)
    with opened(config) as holding:
        folder = holding.folder
        _check_study(bench)
        outcome = Retraining(bench, folder).measure("found", candidate, seeds, val)
        best, metric = folder / "best", bench.objective.metric
        first = adapter_path(folder, candidate, outcome.seeds[0])
        write_text(best / "design.yaml", yaml.safe_dump(candidate.to_dict(), sort_keys=False))
        write_json(best / "metrics.json", asdict(outcome) | provenance(config))
        pooled, readings = _pooled(config, candidate), _readings(folder, candidate)
        card = model_card(config, asdict(outcome), bench.task.classes, metric, pooled=pooled, readings=readings)
        write_text(best / "card.md", card)
        write_bytes(best / "adapter.safetensors", first.read_bytes())
        return outcome


def retrain_baselines(config: RunConfig, seeds: int) -> list[Outcome]:
    """Retrain and test every baseline in the same way, those of the study if it has any; writes `baselines.json`.

    Args:
        config: The run's configuration.
        seeds: How many seeds.

    Raises:
        UserError: When the data or the backbone is at fault.
        RuntimeError: When a training diverges.
    """
    bench = Workbench(config)
    bench.check(test=True)
    with opened(config) as holding:
        folder = holding.folder
        _check_study(bench)
        retraining = Retraining(bench, folder)
        outcomes = []
        trials = complete(StudyRecord.read(folder, config.storage).counted(BASELINE))
        known = {candidate_of(trial): trial.values[0] for trial in trials}
        if not known:  # the search had other beginnings
            found = baselines(bench.shape, bench.budget.limit, bench.cost)
            known = {Candidate(design): None for design in found.values()}
        for candidate, val in known.items():
            name = ", ".join(candidate.design.by_method) or "linear"
            outcomes.append(retraining.measure(name, candidate, seeds, val))
        write_json(folder / "baselines.json", [asdict(outcome) for outcome in outcomes])
        return outcomes


def _check_study(bench: Workbench) -> None:
    """Refuse to retrain what was selected on other data: test images may have been among those it was selected on."""
    try:
        record = StudyRecord.read(bench.config.folder, bench.config.storage)
    except StorageError:
        return  # a design of a file may be retrained without a search
    check_identity(record, bench)


def adapter_path(folder: Path, candidate: Candidate, seed: int) -> Path:
    """Where the adapter file of a retrained seed is kept.

    Args:
        folder: The run folder.
        candidate: What was retrained.
        seed: The seed.
    """
    return folder / RETRAINED / f"{candidate.key}-{seed}.safetensors"


class Retraining:
    """Retrains candidates of one run and reads its test split, once for each candidate and seed.

    Args:
        bench: The run's workbench.
        folder: Its folder, held by this process.
    """

    def __init__(self, bench: Workbench, folder: Path) -> None:
        self._bench, self._folder = bench, folder

    def measure(self, name: str, candidate: Candidate, seeds: int, val: float | None) -> Outcome:
        """Retrain a candidate with several seeds, and test each.

        Args:
            name: What it is called in tables.
            candidate: What to train.
            seeds: How many seeds, from the run's own on.
            val: Its value on the selection split, for the report.

        Raises:
            RuntimeError: When a training diverges.
        """
        params = self._bench.cost(candidate.design)
        numbers = [self._bench.config.seed + i for i in range(seeds)]
        tests = [self._test(name, candidate, seed, val) for seed in numbers]
        std = float(np.std(tests, ddof=1)) if seeds > 1 else 0.0
        mean = float(np.mean(tests))
        design, settings = candidate.design.to_dict(), dict(candidate.settings)
        return Outcome(name, design, settings, params, val, mean, std, tests, numbers, self._bench.objective.metric)

    def _test(self, name: str, candidate: Candidate, seed: int, val: float | None) -> float:
        """The value on test of one seed, which is kept with its adapter file."""
        path, stamp = adapter_path(self._folder, candidate, seed), self._stamp(candidate, seed)
        format_value = self._bench.objective.metric.format
        if (kept := _kept(path, stamp)) is not None:
            log.info("retrained %-12s seed %d  test %s, already: it is not read again", name, seed, format_value(kept))
            return kept
        start = time.perf_counter()
        run = self._train(name, candidate, seed)
        self._note_read(name, candidate, seed)
        test = run.test()
        if not math.isfinite(test):
            raise RuntimeError(f"retraining {name} with seed {seed} diverged in the last epoch; lower train.lr")
        log.info(
            "retrained %-12s seed %d  test %6s  %5.0f s", name, seed, format_value(test), time.perf_counter() - start
        )
        bench = self._bench
        save_adapter(
            run.model,
            path,
            classes=bench.task.classes,
            score={"test": test} | ({} if val is None else {"val": val}),
            task=bench.about_task | {"stamp": stamp},
            kind=bench.task.kind,
            metric=bench.objective.metric.name,
            input=bench.inputs,
        )
        for left in (self._folder / CHECKPOINTS).glob(f"{candidate.key}-trainval-*"):
            left.unlink()
        with suppress(OSError):  # others may be kept there
            (self._folder / CHECKPOINTS).rmdir()
        return test

    def _train(self, name: str, candidate: Candidate, seed: int) -> TrainingRun:
        """One seed's training on train+val, from where it stands."""
        config = self._bench.config
        fidelity = Fidelity(config.train.epochs, seed)
        run = TrainingRun(self._bench, candidate, fidelity, "trainval", None, files=self._bench.files)
        said = time.monotonic()
        while not run.finished:
            result = run.epoch()
            if not math.isfinite(result.loss):
                why = f"retraining {name} with seed {seed} diverged in epoch {result.epoch}"
                raise RuntimeError(f"{why}; lower train.lr")
            if time.monotonic() - said >= _SAID_EVERY:
                said = time.monotonic()
                epochs = f"{result.epoch}/{config.train.epochs}"
                log.info("retraining %-12s seed %d  epoch %-7s loss %.3f", name, seed, epochs, result.loss)
        return run

    def _stamp(self, candidate: Candidate, seed: int) -> str:
        """A hash of all that determines a seed's value on test."""
        views = self._bench.task.views
        parts = self._bench.stamp(
            candidate=candidate.to_dict(),
            seed=seed,
            data=self._bench.fingerprint(views["trainval"]),
            test=self._bench.fingerprint(views["test"]),
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _note_read(self, name: str, candidate: Candidate, seed: int) -> None:
        """Write down that the test split is read; a choice among many readings is a choice by the test split."""
        reads = _reads(self._folder)
        others = {read["key"] for read in reads} - {candidate.key}
        if others:
            log.info("the test split was read for %d other candidates before: do not choose by it", len(others))
        when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        read = {"name": name, "key": candidate.key, "seed": seed, "when": when}
        write_json(self._folder / TEST_READS, [*reads, read])


def _kept(path: Path, stamp: str) -> float | None:
    """The value on test of an adapter file that was made of exactly the same; None where there is none."""
    try:
        info = read_adapter_info(path)
    except AdapterError:
        return None
    return info.score.get("test") if info.task.get("stamp") == stamp else None


def _reads(folder: Path) -> list[dict[str, Any]]:
    """Every reading of the test split so far."""
    path = folder / TEST_READS
    reads: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return reads


def _readings(folder: Path, candidate: Candidate) -> int:
    """How often the test split was read for the seed of a candidate that it was read for most often."""
    seeds = Counter(read["seed"] for read in _reads(folder) if read["key"] == candidate.key)
    return max(seeds.values(), default=1)


def _pooled(config: RunConfig, candidate: Candidate) -> Pooled | None:
    """The candidate's value over all folds, where finalists were compared on them."""
    try:
        return StudyRecord.read(config.folder, config.storage).evidence().pooled(candidate.key)
    except StorageError:
        return None  # a design of a file may be retrained without a search
