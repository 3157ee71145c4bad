"""The stage in which designs are scored with inherited weights, and what is trained after it."""

from __future__ import annotations

import logging
import math
from itertools import islice

from optuna.trial import FrozenTrial

from petlas.search.config import RunConfig
from petlas.search.record import FINALIST, RANKING, SCORE, StudyRecord, design_of
from petlas.search.session import Proposal, Session
from petlas.search.training import EpochResult

log = logging.getLogger("petlas")


class ScoreStage:
    """Scores designs that the run's sampler draws, until there are `search.scores` of them.

    Args:
        session: The search that the scores are for.
    """

    def __init__(self, session: Session) -> None:
        self.config: RunConfig = session.config
        self._session = session
        self._record: StudyRecord = session.record
        self._done = sum(_counts(trial) for trial in self._record.trials())
        some = islice(session.space.designs(session.budget), self.config.search.scores)
        self._wanted = sum(1 for _ in some)  # a small space has fewer designs than are to be scored
        self._running: set[int] = set()

    def exhausted(self) -> bool:
        """Whether no further design may be scored, beside those that are being scored."""
        return self._done + len(self._running) >= self._wanted

    def propose(self) -> Proposal:
        """The sampler's next design, written down as running."""
        session, study = self._session, self._record.study
        trial = self._record.begin(SCORE)
        ranges = session.sampler.infer_relative_search_space(study, trial)
        design = session.space.of_params(session.sampler.sample_relative(study, trial, ranges))
        params = session.cost(design)
        highs = zip(session.space.params(design).items(), session.space.highs, strict=True)
        choices = {name: (value, high) for (name, value), high in highs}
        self._record.fill(trial, design, params, self.config.seed, choices)
        self._running.add(trial.number)
        return Proposal(trial.number, design, params, SCORE)

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """A score is one epoch."""
        return True

    def on_end(self, number: int, result: EpochResult | None, error: str = "") -> None:
        """Write down the score."""
        self._running.discard(number)
        self._done += 1
        score = result.val if result and not error else math.nan
        self._record.finish(number, 0, score, True, result.seconds if result else 0.0, error)
        if self._done % 50 == 0:
            best = self._record.scored()
            shown = f"best {100 * best[0].values[0]:.1f}%  {design_of(best[0])}" if best else "none is finite"
            log.info("scored %d of %d designs  %s", self._done, self.config.search.scores, shown)


def _counts(trial: FrozenTrial) -> bool:
    done = trial.state.is_finished() and not trial.user_attrs.get("interrupted")
    return done and trial.user_attrs.get("stage") == SCORE


def enqueue_finalists(session: Session) -> None:
    """Let the best designs by score be trained, and for the ranking check designs spread over the scores."""
    scored, settings = session.record.scored(), session.config.search
    count = min(settings.ranking_check, len(scored))
    for i in range(count):
        place = round(i * (len(scored) - 1) / max(1, count - 1))
        session.enqueue(design_of(scored[place]), RANKING)
    for trial in scored[: settings.finalists]:
        session.enqueue(design_of(trial), FINALIST)
