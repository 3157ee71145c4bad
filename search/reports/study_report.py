"""What `petlas study` says of a run, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from petlas.search.objectives import Metric
from petlas.search.reports.text import USUAL, candidate_text, error_text, points, standard_error
from petlas.search.selection import Agreement, Beliefs, Difference, Pooled
from petlas.search.study import SCORE, BelievedRow, TrialRow, row_of
from petlas.search.study.reading import StudyReader

_ONLY_WHERE_KNOWN = ("fold", "repeat", "device")
_SCORES = 20
"""So many scores with inherited weights are listed for people; a supernet has hundreds."""


@dataclass(frozen=True)
class StudyReport:
    """The trials of a run and what was made of them.

    Args:
        trials: All, by number.
        best: The trial of the chosen candidate, with the value that it is compared by; None while none came to its end.
        pareto: The front of the metric and parameters, by parameters, in the same way.
        metric: What `val` is a value of.
        images: How many images `val` was measured on; None where that is not known.
        agreement: How well scores of a supernet rank candidates, where that was checked.
        pooled: By a candidate's key, its value over all folds, where finalists were compared on them.
        behind: By a candidate's key, how far it is behind the first of those; the first has none.
        left_out: How many scores are not among the trials.
        believed: What candidates are compared by where each was measured on some folds alone; None where on one split.
    """

    trials: list[TrialRow]
    best: TrialRow | None
    pareto: list[TrialRow]
    metric: Metric = USUAL
    images: int | None = None
    agreement: Agreement | None = None
    pooled: Mapping[str, Pooled] = field(default_factory=dict)
    behind: Mapping[str, Difference] = field(default_factory=dict)
    left_out: int = 0
    believed: Beliefs | None = None

    @classmethod
    def of(cls, record: StudyReader) -> StudyReport:
        """The report of a study."""
        best, about, evidence = record.best(), record.about, record.evidence()
        pooled = {key: evidence.pooled(key) for key in evidence.measured}
        found = cls(
            trials=[row_of(trial) for trial in record.trials()],
            best=row_of(best) if best else None,
            pareto=[row_of(trial) for trial in record.pareto()],
            metric=Metric.from_dict(about["metric"]) if "metric" in about else cls.metric,
            images=about.get("images", {}).get("val"),
            agreement=record.agreement(),
            pooled={key: found for key, found in pooled.items() if found is not None},
            believed=record.believed,
        )
        ranked = found.by_pooled
        found = replace(found, behind={key: evidence.difference(ranked[0], key) for key in ranked[1:]})
        if found.believed is None:
            return found
        return replace(found, best=found.compared(found.best) if found.best else None, pareto=found._believed_front())

    # By what candidates are compared

    def compared(self, row: TrialRow) -> TrialRow:
        """A trial with the value that its candidate is compared by: what is believed of it, where that is so.

        Args:
            row: The trial.
        """
        if self.believed is None or row.key not in self.believed.keys:
            return row
        value, error = self.believed.of(row.key)
        known = {each.name: getattr(row, each.name) for each in fields(TrialRow)}
        return BelievedRow(**known | {"val": value, "fold": None, "repeat": None}, val_error=error)

    def error(self, row: TrialRow) -> float | None:
        """The standard error of the value that a candidate is compared by; None where it is not known.

        Args:
            row: A trial of the candidate.
        """
        if self.believed is not None:
            return self.believed.of(row.key)[1] if row.key in self.believed.keys else None
        return None if row.val is None else standard_error(self.metric, row.val, self.images)

    def of_candidate(self, key: str) -> TrialRow | None:
        """The row of a candidate that can be compared; None for any other.

        Args:
            key: The candidate's.
        """
        return next((row for row in self.candidates if row.key == key), None)

    def worth(self, row: TrialRow) -> str:
        """What a candidate is compared by, in words: what it is, how much, and how sure that is.

        Args:
            row: One of `best` and `pareto`, which has a value.
        """
        assert row.val is not None
        value, error = self.metric.format(row.val), self.error(row)
        if isinstance(row, BelievedRow):
            sure = f"standard error {points(self.metric, row.val_error)}, by all trainings on all folds together"
            return f"a believed {value} on images not learned from ({sure})"
        told = f"{value} on val{error_text(error, self.images)}"
        if (pooled := self.pooled.get(row.key)) is not None:
            told += f", {self.metric.format(pooled.value)} over all folds{error_text(pooled.error, pooled.images)}"
        return told

    @cached_property
    def candidates(self) -> list[TrialRow]:
        """Each candidate that can be compared, by its first whole training on train, the best first.

        Where candidates are compared by belief, each that something is believed of, by its longest training.
        """
        sign = -1 if self.metric.maximize else 1
        if self.believed is None:
            rows = {row.key: row for row in reversed(self.trials) if _is_whole(row)}
        else:
            known = [row for row in self.trials if row.key in self.believed.keys and row.val is not None]
            longest = sorted(known, key=lambda row: (row.epochs, -row.number))
            rows = {row.key: self.compared(row) for row in longest}
        return sorted(rows.values(), key=lambda row: (sign * (row.val or 0.0), row.params, row.number))

    def _believed_front(self) -> list[TrialRow]:
        front: list[TrialRow] = []
        sign = 1 if self.metric.maximize else -1
        for row in sorted(self.candidates, key=lambda row: (row.params, -sign * (row.val or 0.0))):
            if not front or sign * (row.val or 0.0) > sign * (front[-1].val or 0.0):
                front.append(row)
        return front

    # As data

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
        kept = ("number", "state", "stage", "val", "params", "epochs", "fold", "repeat", "seconds", "key")
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
        told = kept | {"value": found.value, "error": error, "images": found.images}
        if key in self.behind:
            apart = self.behind[key]
            told["behind"] = {"value": apart.value, "error": None if math.isnan(apart.error) else apart.error}
        return told


def _is_whole(row: TrialRow) -> bool:
    return row.state == "COMPLETE" and row.stage != SCORE and row.fold is None and row.val is not None


def row_dict(row: TrialRow) -> dict[str, Any]:
    """A trial as plain data, without what is not known of it."""
    return {key: value for key, value in asdict(row).items() if value is not None or key not in _ONLY_WHERE_KNOWN}
