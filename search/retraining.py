"""Retraining on train+val after the selection: what is retrained, and what is handed over of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from petlas.files import write_bytes, write_json, write_text
from petlas.petl import licence_of
from petlas.search.config import RunConfig
from petlas.search.identity import check_identity
from petlas.search.objectives import Metric
from petlas.search.predictions import keep_pictures
from petlas.search.reports.card import model_card
from petlas.search.reports.provenance import provenance
from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.text import standard_error
from petlas.search.run_folder import RunError, opened
from petlas.search.runners import check_resources
from petlas.search.selection import Pooled
from petlas.search.stages.doing import do_stages
from petlas.search.stages.retrain import RetrainStage, Wanted, adapter_name, note_read, readings
from petlas.search.strategies.baselines import baselines
from petlas.search.study import BASELINE, BelievedRow, StorageError, StudyRecord, TrialRow, candidate_of
from petlas.search.study.trials import complete
from petlas.search.together import keep_taught, measure_together, taught
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")


@dataclass(frozen=True)
class Outcome:
    """A retrained candidate.

    Args:
        name: What it is called in tables.
        design: As plain data.
        settings: Its own, where they differ from the run's.
        params: Trainable parameters, head excluded.
        val: What the search compared it by, its value on the selection split or what is believed of it; None if it was
            not searched.
        test_mean: The mean over the seeds.
        test_std: Their standard deviation, 0 for one seed.
        tests: Its value on test for each seed.
        seeds: The seeds.
        metric: What the values are of.
        together: What the seeds are worth on test together, where that was asked for: as an ensemble, with the
            average of their weights, and as teachers of one more model.
        val_error: The standard error of `val`, where it is known.
        believed: Whether `val` is what all its trainings on all folds together say, as no split measured it.
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
    together: dict[str, float] = field(default_factory=dict)
    val_error: float | None = None
    believed: bool = False


def choose(config: RunConfig, trial: int | None = None, file: Path | None = None) -> tuple[Candidate, float | None]:
    """What to retrain, and what the search compared it by: the best candidate, a trial's, or a file's.

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
    report = StudyReport.of(StudyRecord.read(config.folder, config.storage))
    if trial is None:
        if report.best is None:
            raise RunError(f"retraining needs a finished trial, and {config.folder} has none; run the search on")
        return _candidate_of(report.best), report.best.val
    found = next((row for row in report.trials if row.number == trial and row.design), None)
    if found is None:
        raise RunError(f"--trial must be a trial of {config.folder}, got {trial}; petlas study lists them")
    return _candidate_of(found), report.compared(found).val


def _candidate_of(row: TrialRow) -> Candidate:
    return Candidate.from_dict({**row.design, "settings": row.settings})


def retrain(
    config: RunConfig,
    candidate: Candidate,
    seeds: int,
    val: float | None = None,
    *,
    together: bool = False,
    distil: bool = False,
) -> Outcome:
    """Train a candidate on train+val from the backbone with several seeds, test each once, and write `best/`.

    The adapter file is the first seed's, whatever the test says. A seed that was retrained before is not trained, and
    the test split not read, again.

    Args:
        config: The run's configuration, whose runner trains the seeds.
        candidate: What to train.
        seeds: How many seeds, from the run's own on.
        val: What the search compared it by, for the report.
        together: Whether the seeds are tested together, too: it reads the test split once more.
        distil: Whether one more model is trained, which the seeds teach: it reads the test split once more.

    Raises:
        UserError: When the data, the backbone or the candidate is at fault.
        RuntimeError: When a training diverges.
    """
    return _retrain(config, candidate, seeds, val, compared=False, together=together, distil=distil)[0]


def retrain_with_baselines(
    config: RunConfig,
    candidate: Candidate,
    seeds: int,
    val: float | None = None,
    *,
    together: bool = False,
    distil: bool = False,
) -> tuple[Outcome, list[Outcome]]:
    """Retrain a candidate, and every baseline in the same way, those of the study if it has any.

    Writes `baselines.json`, too.

    Args:
        config: The run's configuration.
        candidate: What to train.
        seeds: How many seeds of each, from the run's own on.
        val: What the search compared the candidate by, for the report.
        together: Whether the candidate's seeds are tested together, too.
        distil: Whether one more model is trained, which the candidate's seeds teach.

    Returns:
        The candidate's, and the baselines'.

    Raises:
        UserError: When the data, the backbone or the candidate is at fault.
        RuntimeError: When a training diverges.
    """
    found, *others = _retrain(config, candidate, seeds, val, compared=True, together=together, distil=distil)
    return found, others


def _retrain(
    config: RunConfig,
    candidate: Candidate,
    seeds: int,
    val: float | None,
    *,
    compared: bool,
    together: bool,
    distil: bool,
) -> list[Outcome]:
    """Retrain a candidate, after the baselines if it is to be compared with them; the candidate's comes first."""
    for option, given in (("--together", together), ("--distil", distil)):
        if given and seeds < 2:
            raise RunError(f"{option} needs at least 2 seeds, got {seeds}; add --seeds 3")
    check_resources(config)
    bench = Workbench(config)
    bench.check(test=True)
    with opened(config) as holding:
        folder = holding.folder
        _check_study(bench)
        others = _baselines(bench) if compared else {}
        named = [("found", candidate, val)]
        named += [(", ".join(c.design.by_method) or "linear", c, value) for c, value in others.items()]
        numbers = [config.seed + i for i in range(seeds)]
        wanted = [Wanted(name, each, seed, value) for name, each, value in (*named[1:], named[0]) for seed in numbers]
        stage = RetrainStage(bench, wanted)
        do_stages([stage], jobs=stage.left)
        report = _report(config)
        outcomes = [_outcome(bench, *each, numbers, stage.tests, report) for each in named]
        if together or distil:
            extra = _together(bench, candidate, numbers) if together else {}
            extra |= _distilled(bench, candidate, numbers) if distil else {}
            outcomes[0] = replace(outcomes[0], together=extra)
        if compared:
            write_json(folder / "baselines.json", [asdict(outcome) for outcome in outcomes[1:]])
        _hand_over(bench, candidate, outcomes[0], None if report is None else report.pooled.get(candidate.key))
        test = bench.task.views["test"]
        keep_pictures(folder, test, bench.fingerprint(test), candidate.key)
        return outcomes


def _outcome(
    bench: Workbench,
    name: str,
    candidate: Candidate,
    val: float | None,
    seeds: list[int],
    values: Mapping[tuple[str, int], float],
    report: StudyReport | None,
) -> Outcome:
    """What came of a candidate's seeds, beside what the study says of it."""
    tests = [values[candidate.key, seed] for seed in seeds]
    std = float(np.std(tests, ddof=1)) if len(seeds) > 1 else 0.0
    design, settings, params = candidate.design.to_dict(), dict(candidate.settings), bench.cost(candidate.design)
    found = Outcome(
        name, design, settings, params, val, float(np.mean(tests)), std, tests, seeds, bench.objective.metric
    )
    if report is None or val is None:
        return found
    row = report.of_candidate(candidate.key)
    error = standard_error(found.metric, val, report.images) if row is None else report.error(row)
    return replace(found, val_error=error, believed=isinstance(row, BelievedRow))


def _together(bench: Workbench, candidate: Candidate, seeds: list[int]) -> dict[str, float]:
    """What the retrained seeds are worth on test together."""
    note_read(bench, f"{len(seeds)} seeds together", candidate, None)
    return measure_together(bench, _files(bench, candidate, seeds))


def _distilled(bench: Workbench, candidate: Candidate, seeds: list[int]) -> dict[str, float]:
    """What a model is worth on test that the retrained seeds have taught."""
    run = taught(bench, candidate, _files(bench, candidate, seeds), seeds[0])
    note_read(bench, f"taught by {len(seeds)} seeds", candidate, None)
    return {"distilled": keep_taught(run)}


def _files(bench: Workbench, candidate: Candidate, seeds: list[int]) -> list[Path]:
    return [bench.config.folder / adapter_name(candidate, seed) for seed in seeds]


def _hand_over(bench: Workbench, candidate: Candidate, outcome: Outcome, pooled: Pooled | None) -> None:
    """Write `best/`; its card has the candidate's value over all folds, where finalists were compared on them."""
    config, folder = bench.config, bench.config.folder
    best, first = folder / "best", folder / adapter_name(candidate, outcome.seeds[0])
    write_text(best / "design.yaml", yaml.safe_dump(candidate.to_dict(), sort_keys=False))
    write_json(best / "metrics.json", asdict(outcome) | provenance(config))
    times, metric = readings(bench, candidate), bench.objective.metric
    classes, licence = bench.task.classes, licence_of(config.backbone.name)
    card = model_card(config, asdict(outcome), classes, metric, pooled=pooled, readings=times, licence=licence)
    write_text(best / "card.md", card)
    write_bytes(best / "adapter.safetensors", first.read_bytes())


def _baselines(bench: Workbench) -> dict[Candidate, float | None]:
    """The baselines that came to their end in the study, with their values; where it has none, those of the budget."""
    trials = complete(StudyRecord.read(bench.config.folder, bench.config.storage).counted(BASELINE))
    known: dict[Candidate, float | None] = {candidate_of(trial): trial.values[0] for trial in trials}
    if not known:  # the search had other beginnings
        found = baselines(bench.shape, bench.budget.limit, bench.cost)
        known = {Candidate(design): None for design in found.values()}
    return known


def _check_study(bench: Workbench) -> None:
    """Refuse to retrain what was selected on other data: test images may have been among those it was selected on."""
    try:
        record = StudyRecord.read(bench.config.folder, bench.config.storage)
    except StorageError:
        return  # a design of a file may be retrained without a search
    check_identity(record, bench)


def _report(config: RunConfig) -> StudyReport | None:
    """What the study says; None without one, as a design of a file may be retrained without a search."""
    try:
        return StudyReport.of(StudyRecord.read(config.folder, config.storage))
    except StorageError:
        return None
