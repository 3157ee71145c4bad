"""The stage that measures how sensitive the loss is to each weight."""

from __future__ import annotations

from petlas.search.sensitivity import keep_report, kept_report, tell
from petlas.search.stages.base import Chore, Proposal
from petlas.search.stages.once import Once
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import Workbench


class SensitivityStage(Chore):
    """Measures the sensitivity, unless the run folder has it.

    Args:
        bench: The run's workbench.
    """

    work = "sensitivity"

    def __init__(self, bench: Workbench) -> None:
        self.found = kept_report(bench)
        super().__init__(bench, needed=self.found is None)

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Take in the report."""
        super().on_end(number, result, error, device)
        self.found = kept_report(self.bench)
        assert self.found is not None, "a worker that ends without an error leaves the report"
        tell(self.found, self.bench)


def open_measuring(bench: Workbench, proposal: Proposal) -> Work:
    """The measurement of the sensitivity.

    Args:
        bench: The run's workbench; its folder keeps the report.
        proposal: Says no more than that.
    """
    return Once(lambda: keep_report(bench))
