"""What the calls of `petlas.search` give, and the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlas.errors import UserError
from petlas.search.study import TrialRow

if TYPE_CHECKING:
    from petlas.search.retraining import Outcome


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        folder: The run folder.
        best: The trial of the chosen candidate, with the value that it was chosen by; None if no trial came to its end.
        error: Why the search stopped before its end; None if it did not.
    """

    folder: Path
    best: TrialRow | None
    error: Exception | None = None

    @property
    def value(self) -> float | None:
        """What the chosen candidate was chosen by: its value on the selection split, or what is believed of it."""
        return None if self.best is None else self.best.val

    def to_dict(self) -> dict[str, Any]:
        """What `petlas search --format json` prints."""
        from petlas.search.reports.study_report import row_dict

        found = {"run": str(self.folder), "best": row_dict(self.best) if self.best else None, "value": self.value}
        return found | ({} if self.error is None else {"error": str(self.error)})


class SearchesStopped(RuntimeError):
    """Some of several searches stopped before their end, and the others came to theirs.

    Args:
        results: Of all of them.
    """

    def __init__(self, results: Sequence[SearchResult]) -> None:
        self.results = list(results)
        stopped = [result for result in results if result.error is not None]
        lines = [f"{result.folder}: {result.error}" for result in stopped]
        super().__init__("\n".join([f"{len(stopped)} of {len(results)} searches stopped before their end", *lines]))

    @property
    def of_user(self) -> bool:
        """Whether the user can mend all of it."""
        return all(isinstance(result.error, UserError | None) for result in self.results)


@dataclass(frozen=True)
class RetrainResult:
    """What retraining gave.

    Args:
        outcome: Of the chosen candidate.
        adapter: Its adapter file.
        baselines: Those of the baselines, if they were asked for.
    """

    outcome: Outcome
    adapter: Path
    baselines: tuple[Outcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `petlas retrain --format json` prints."""
        data = asdict(self.outcome) | {"adapter": str(self.adapter)}
        return data | ({"baselines": [asdict(other) for other in self.baselines]} if self.baselines else {})
