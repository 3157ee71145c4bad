"""What `petlas study` says of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from petlas.search.ranking import ranking_of
from petlas.search.record import StudyRecord, row_of


def as_json(record: StudyRecord) -> dict[str, Any]:
    """The study as `petlas study --format json` prints it; `ranking` only where scores can be checked."""
    best, ranking = record.best(), ranking_of(record)
    data: dict[str, Any] = {
        "trials": [asdict(row_of(t)) for t in record.trials()],
        "best": asdict(row_of(best)) if best else None,
        "pareto": [asdict(row_of(t)) for t in record.pareto()],
    }
    return data | ({"ranking": asdict(ranking)} if ranking else {})
