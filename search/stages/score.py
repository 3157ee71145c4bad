"""The stage in which designs are scored with inherited weights."""

from __future__ import annotations

import logging
from itertools import islice

from petlas.search.stages.base import Proposal, TrialStage
from petlas.search.stages.proposer import Proposer
from petlas.search.stages.scoring import ScoringRun
from petlas.search.stages.supernet import FILE
from petlas.search.study import SCORE, Ending, Entry, StudyRecord, candidate_of
from petlas.search.training import EpochResult, Fidelity, Work
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")

_SAID_EVERY = 50


class ScoreStage(TrialStage):
    """Scores designs that the proposer draws, until there are `search.scores` of them.

    Args:
        bench: The run's workbench.
        record: Its study.
        proposer: Draws the designs.
    """

    work = "score"

    def __init__(self, bench: Workbench, record: StudyRecord, proposer: Proposer) -> None:
        super().__init__(bench, record, proposer=proposer)
        self._done = len(record.counted(SCORE))
        some = islice(bench.space.designs(bench.budget), bench.config.search.scores)
        self._wanted = sum(1 for _ in some)  # a small space has fewer designs than are to be scored

    def owns(self, stage: str) -> bool:
        """The scores."""
        return stage == SCORE

    def files(self, proposal: Proposal) -> tuple[str, ...]:
        """The supernet."""
        return (FILE,)

    def entry(self, candidate: Candidate) -> Entry:
        """A score has no epochs."""
        return Entry(candidate, Fidelity(0, self.bench.config.seed), SCORE, *self.bench.both_costs(candidate.design))

    def exhausted(self) -> bool:
        """Whether no further design may be scored, beside those that are being scored."""
        return bool(self.fault) or self._done + self.running + self.waiting >= self._wanted

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """A score is one epoch."""
        return True

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Write down the score."""
        value, seconds = (result.val, result.seconds) if result else (None, 0.0)
        self._close(number, Ending(0, value, seconds, error, {"device": device} if device else {}))
        self._done += 1
        if self._done % _SAID_EVERY == 0:
            best = self.record.scored()
            format_value = self.bench.objective.metric.format
            shown = f"best {format_value(best[0].values[0])}  {candidate_of(best[0])}" if best else "none is finite"
            log.info("scored %d of %d designs  %s", self._done, self._wanted, shown)


def open_scoring(bench: Workbench, proposal: Proposal) -> Work:
    """The scoring of a trial's design.

    Args:
        bench: The run's workbench.
        proposal: The trial.
    """
    return ScoringRun(bench, proposal.tried.candidate.design)
