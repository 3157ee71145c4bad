"""What a page is made from: all that a run has written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from petlas.search.config import RunConfig
from petlas.search.objectives import Metric
from petlas.search.predictions import Predictions, read_pictures, read_predictions
from petlas.search.reports.study_report import StudyReport
from petlas.search.run_folder import LOG, SENSITIVITY_FILES
from petlas.search.study import (
    BASELINE,
    PORTFOLIO,
    Step,
    StudyRecord,
    TrialRow,
    course,
    is_interrupted,
    price,
)
from petlas.spaces import Candidate

_COMMAND, _VERSIONS = "INFO command: ", "INFO petlas "


@dataclass(frozen=True)
class RunView:
    """A run as its folder and its study tell it.

    Args:
        config: The run's.
        report: Its study, as `petlas study` has it.
        trials: All trials, with their values after each epoch.
        about: What the study is of.
        elapsed: Seconds that searching took.
        retrained: `best/metrics.json`, where it was retrained.
        baselines: `baselines.json`, where baselines were.
        sensitivity: `sensitivity.json`, where it was measured.
        predictions: What retrained designs said of the test images.
        pictures: Small pictures of test images by their numbers, as JPEG files.
        course: What a search by `auto` believed behind each rung.
        log: The lines of `log.txt` that say which versions and commands there were.
    """

    config: RunConfig
    report: StudyReport
    trials: list[FrozenTrial]
    about: dict[str, Any] = field(default_factory=dict)
    elapsed: float = 0.0
    retrained: dict[str, Any] | None = None
    baselines: list[dict[str, Any]] = field(default_factory=list)
    sensitivity: dict[str, Any] | None = None
    predictions: list[Predictions] = field(default_factory=list)
    pictures: Mapping[int, bytes] = field(default_factory=dict)
    course: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: RunConfig) -> RunView:
        """The view of a run that has a study.

        Raises:
            UserError: When it has none.
        """
        folder, record = config.folder, StudyRecord.read(config.folder, config.storage)
        retrained, predictions = _read(folder / "best" / "metrics.json"), read_predictions(folder)
        test = next((one.about.test for one in predictions if one.about.key == key_of(retrained)), "")
        return cls(
            config=config,
            report=StudyReport.of(record),
            trials=record.trials(),
            about=record.about,
            elapsed=record.elapsed,
            retrained=retrained,
            baselines=_read(folder / "baselines.json") or [],
            sensitivity=_read(folder / SENSITIVITY_FILES[0]),
            predictions=predictions,
            pictures=read_pictures(folder, test),
            course=course(record),
            log=_told(folder / LOG),
        )

    @property
    def name(self) -> str:
        """The run's."""
        return self.config.name

    @cached_property
    def retrained_key(self) -> str:
        """The key of the candidate that was retrained last; empty where none was."""
        return key_of(self.retrained)

    @property
    def metric(self) -> Metric:
        """What values are of."""
        return self.report.metric

    @property
    def by_belief(self) -> bool:
        """Whether candidates are compared by what is believed of them, as no view measured all of them."""
        return self.report.believed is not None

    @property
    def best(self) -> TrialRow | None:
        """The trial of the chosen candidate, with the value that it is compared by; None while none came to its end."""
        return self.report.best

    @property
    def whole(self) -> list[TrialRow]:
        """The candidates that can be compared, the best first."""
        return self.report.candidates

    @cached_property
    def leaders(self) -> list[TrialRow]:
        """The same as the choice ranks them: by pooled values where there are any; the chosen one comes first."""
        ranked = [self.report.row(key) for key in self.report.by_pooled] or self.whole
        best = self.best
        return ranked if best is None else [best, *(row for row in ranked if row.key != best.key)]

    def keys_of(self, *stages: str) -> set[str]:
        """The candidates that were tried in some stages.

        Args:
            stages: Their names.
        """
        return {row.key for row in self.report.trials if row.stage in stages}

    @cached_property
    def known(self) -> list[TrialRow]:
        """The baselines and the candidates of the portfolio, as far as they can be compared, the best first."""
        keys = self.keys_of(BASELINE, PORTFOLIO)
        return [row for row in self.whole if row.key in keys]

    @property
    def versions(self) -> str:
        """With what it was begun; empty where the log does not say it."""
        return next((line.partition("INFO ")[2] for line in self.log if _VERSIONS in line), "")

    @property
    def commands(self) -> list[str]:
        """The commands that worked on it, each once, in their order."""
        return list(dict.fromkeys(line.partition(_COMMAND)[2] for line in self.log if _COMMAND in line))

    @cached_property
    def costs(self) -> list[tuple[FrozenTrial, float]]:
        """Each trial that was counted, with what it cost in R."""
        return [(trial, price(trial, self.about)) for trial in self.trials if not is_interrupted(trial)]


def key_of(outcome: Mapping[str, Any] | None) -> str:
    """The key of a candidate, empty for none.

    Args:
        outcome: Its design and settings, as `best/metrics.json` has them.
    """
    if not outcome or not outcome.get("design"):
        return ""
    return Candidate.from_dict({**outcome["design"], "settings": outcome.get("settings") or {}}).key


def _read(path: Path) -> Any:
    """A JSON file; None where it is missing or damaged, which must not keep the rest from being told."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _told(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if _COMMAND in line or _VERSIONS in line]
