"""What `petlas study` says of a run, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from petlas.search.objectives import Metric
from petlas.search.reports.text import USUAL, candidate_text
from petlas.search.selection import Agreement, Pooled
from petlas.search.study import SCORE, StudyRecord, TrialRow, row_of

_ONLY_WHERE_KNOWN = ("fold", "device")
_SCORES = 20
"""So many scores with inherited weights are listed for people; a supernet has hundreds."""


@dataclass(frozen=True)
class StudyReport:
    """The trials of a run and what was made of them.

    Args:
        trials: All, by number.
        best: The trial of the chosen candidate; None while none came to its end.
        pareto: The front of the metric and parameters, by parameters.
        metric: What `val` is a value of.
        images: How many images `val` was measured on; None where that is not known.
        agreement: How well scores of a supernet rank candidates, where that was checked.
        pooled: By a candidate's key, its value over all folds, where finalists were compared on them.
        left_out: How many scores are not among the trials.
    """

    trials: list[TrialRow]
    best: TrialRow | None
    pareto: list[TrialRow]
    metric: Metric = USUAL
    images: int | None = None
    agreement: Agreement | None = None
    pooled: Mapping[str, Pooled] = field(default_factory=dict)
    left_out: int = 0

    @classmethod
    def of(cls, record: StudyRecord) -> StudyReport:
        """The report of a study."""
        best, about, evidence = record.best(), record.about, record.evidence()
        pooled = {key: evidence.pooled(key) for key in evidence.measured}
        return cls(
            trials=[row_of(trial) for trial in record.trials()],
            best=row_of(best) if best else None,
            pareto=[row_of(trial) for trial in record.pareto()],
            metric=Metric.from_dict(about["metric"]) if "metric" in about else cls.metric,
            images=about.get("images", {}).get("val"),
            agreement=record.agreement(),
            pooled={key: found for key, found in pooled.items() if found is not None},
        )

    def to_dict(self) -> dict[str, Any]:
        """What `petlas study --format json` prints; `ranking` and `folds` only where there are any."""
        data: dict[str, Any] = {
            "trials": [row_dict(row) for row in self.trials],
            "best": row_dict(self.best) if self.best else None,
            "pareto": [row_dict(row) for row in self.pareto],
        }
        if self.agreement is not None:
            data["ranking"] = asdict(self.agreement)
        if self.pooled:
            data["folds"] = [self._pooled_dict(key) for key in self.by_pooled]
        return data

    def top(self, count: int) -> StudyReport:
        """The same with the best trials alone, the best first; those that came to their end stand before others.

        Args:
            count: How many.
        """
        return replace(self, trials=sorted(self.trials, key=self._rank)[:count])

    def brief(self) -> StudyReport:
        """The same with the best few scores alone, where there are many."""
        scores = sorted((row for row in self.trials if row.stage == SCORE), key=self._rank)
        dropped = {row.number for row in scores[_SCORES:]}
        return replace(self, trials=[row for row in self.trials if row.number not in dropped], left_out=len(dropped))

    def _rank(self, row: TrialRow) -> tuple[bool, bool, float]:
        lost, sign = row.val is None or math.isnan(row.val), -1 if self.metric.maximize else 1
        return row.state != "COMPLETE", lost, 0.0 if row.val is None or lost else sign * row.val

    def rows(self) -> list[dict[str, Any]]:
        """The trials as flat rows, for a spreadsheet."""
        kept = ("number", "state", "stage", "val", "params", "epochs", "fold", "seconds", "key")
        return [
            {name: getattr(row, name) for name in kept} | {"design": candidate_text(row.design, row.settings)}
            for row in self.trials
        ]

    @property
    def by_pooled(self) -> list[str]:
        """The keys of the candidates that were compared on folds, the best first."""
        sign = -1 if self.metric.maximize else 1
        return sorted(self.pooled, key=lambda key: (sign * self.pooled[key].value, self.row(key).params))

    def row(self, key: str) -> TrialRow:
        """The first trial of a candidate."""
        return next(row for row in self.trials if row.key == key)

    def _pooled_dict(self, key: str) -> dict[str, Any]:
        row, found = self.row(key), self.pooled[key]
        error = None if math.isnan(found.error) else found.error
        kept = {"key": key, "design": row.design, "settings": row.settings, "params": row.params}
        return kept | {"value": found.value, "error": error, "images": found.images}


def row_dict(row: TrialRow) -> dict[str, Any]:
    """A trial as plain data, without what is not known of it."""
    return {key: value for key, value in asdict(row).items() if value is not None or key not in _ONLY_WHERE_KNOWN}
