"""The stages in which candidates are trained on their own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np

from petlas.petl import Adapters
from petlas.search.selection.bits import pack_numbers
from petlas.search.stages.base import Proposal, TrialStage
from petlas.search.stages.halving import Halving
from petlas.search.stages.packing import pack_size
from petlas.search.stages.proposer import Proposer
from petlas.search.stages.supernet import FILE, shared_supernet
from petlas.search.stages.training_run import TrainingRun, checkpoint_name
from petlas.search.study import (
    CLASSES,
    CORRECT,
    DRAWN,
    FINALIST,
    FOLDS,
    RANKING,
    SCORE,
    SEARCH,
    Ending,
    Entry,
    StudyRecord,
    candidate_of,
    entry_of,
    row_of,
)
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")


def whole(bench: Workbench, candidate: Candidate, stage: str) -> Entry:
    """A candidate to be trained for all epochs with the run's own seed.

    Args:
        bench: The run's workbench.
        candidate: What is trained.
        stage: Why.
    """
    config = bench.config
    return Entry(candidate, Fidelity(config.train.epochs, config.seed), stage, *bench.both_costs(candidate.design))


class TrainStage(TrialStage):
    """Trains what is queued, then what the proposer draws, until there are `search.trials` trials or time is up.

    Queued trials heed the number of trials, but neither the clock nor the end of the space. Halving stops what was
    drawn, and never what is there to be compared with.

    Args:
        bench: The run's workbench.
        record: Its study.
        queue: What is trained whatever is drawn.
        proposer: Draws further candidates; None for none.
        late: Whether the time for the search is up.
        again: What is trained once more, although the study has it.
    """

    work = "train"

    def __init__(
        self,
        bench: Workbench,
        record: StudyRecord,
        queue: Iterable[Entry] = (),
        proposer: Proposer | None = None,
        late: Callable[[], bool] = lambda: False,
        again: Iterable[Entry] = (),
    ) -> None:
        super().__init__(bench, record, queue, proposer, again)
        search = bench.config.search
        self.halving = Halving(bench.config.train.epochs, search.reduction, search.grace_epochs)
        self._late, self._known = late, 0

    @property
    def pack(self) -> int:
        """As the run says; whoever had too little memory, or was lost beside others, is tried by itself."""
        return 1 if self.next_is_alone else pack_size(self.bench)

    def owns(self, stage: str) -> bool:
        """All trials that are trained on train."""
        return stage not in (SCORE, FOLDS)

    def files(self, proposal: Proposal) -> tuple[str, ...]:
        """The training as it was left, and the supernet where it starts from that."""
        entry = proposal.tried
        own = checkpoint_name(entry.candidate, entry.fidelity)
        return (own, FILE) if inherits(self.bench, entry) else (own,)

    def entry(self, candidate: Candidate) -> Entry:
        """All epochs."""
        return whole(self.bench, candidate, SEARCH)

    def on_open(self) -> None:
        """Say so where nothing is left of it for the search."""
        trials, self._known = self.bench.config.search.trials, self.record.count_trained() + len(self.queued)
        if self._proposer is not None and self._known >= trials and not self.record.counted(SEARCH):
            log.warning("search.trials=%d goes to %d known designs: nothing is searched; raise it", trials, self._known)

    def on_close(self) -> None:
        """Say so where nothing was left of its time for the search."""
        left = self._known < self.bench.config.search.trials
        if self._proposer is not None and left and not self.record.counted(SEARCH):
            log.warning("search.seconds went to known designs: nothing was searched; raise it")

    def exhausted(self) -> bool:
        """Whether no further trial may start, beside those that are running."""
        if self.fault:
            return True
        if self.repeats:
            return False
        if self.record.count_trained() + self.waiting >= self.bench.config.search.trials:
            return True
        if self._queue:
            return False
        return self._proposer is None or self._late() or self._proposer.exhausted()

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Write down an epoch; whether the trial goes on."""
        if not math.isfinite(result.val):
            return False
        self._report(number, result.epoch, result.val)
        if self.record.trials()[number].user_attrs["stage"] not in DRAWN:
            return True
        sign = 1 if self.record.maximize else -1
        others = [sign * value for value in self.record.rung(result.epoch, but=number)]
        return self.halving.keeps(result.epoch, sign * result.val, others)

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Write down a trial's end, from its last epoch."""
        measured = self.bench.views(entry_of(self.record.trials()[number]).fidelity)[1]
        more: dict[str, Any] = {"images": len(measured)}
        more |= {"device": device} if device else {}
        more |= {"parts": result.parts} if result is not None and result.parts > 1 else {}
        if result is not None and result.correct and not error:
            more[CORRECT] = result.correct
            if self.bench.objective.metric.by_class:
                more[CLASSES] = pack_numbers(measured.targets.astype(np.int64))
        if result is None:
            self._close(number, Ending(0, None, 0.0, error, more))
        else:
            self._close(number, Ending(result.epoch, result.val, result.seconds, error, more))
        self._log_trial(number)

    def _log_trial(self, number: int) -> None:
        trial = self.record.trials()[number]
        row, format_value = row_of(trial), self.bench.objective.metric.format
        val = row.state if row.val is None else f"val {format_value(row.val):>6}"
        epochs = f"{row.epochs}/{trial.user_attrs['of_epochs']}"
        log.info(
            "trial %3d  %-8s %-8s %s  %8s params  epoch %-7s %5.0f s  %s",
            number, row.state, row.stage, val, f"{row.params:,}", epochs, row.seconds, candidate_of(trial),
        )  # fmt: skip
        if row.state == "FAIL" and "error" in trial.user_attrs:
            log.warning("trial %3d  failed: %s", number, trial.user_attrs["error"])


class FoldStage(TrainStage):
    """Measures the finalists on every fold of train and val, each by a model that did not learn from that fold.

    Args:
        bench: The run's workbench; `protocol.folds` says how many folds there are.
        record: Its study, whose best candidates so far are the finalists.
    """

    def __init__(self, bench: Workbench, record: StudyRecord) -> None:
        super().__init__(bench, record, folds_of_finalists(bench, record))

    def owns(self, stage: str) -> bool:
        """The folds."""
        return stage == FOLDS

    def exhausted(self) -> bool:
        """Whether all folds of all finalists are measured or running."""
        return bool(self.fault) or not self._queue


def folds_of_finalists(bench: Workbench, record: StudyRecord) -> list[Entry]:
    """All folds of the best candidates by their value on the selection split, candidate by candidate.

    Args:
        bench: The run's workbench.
        record: Its study.
    """
    protocol = bench.config.protocol
    found = []
    for trial in record.leaders(protocol.finalists):
        candidate = candidate_of(trial)
        for repeat, fold in product(range(protocol.repeats), range(bench.folds)):
            fidelity = Fidelity(bench.config.train.epochs, bench.config.seed + repeat, fold, bench.folds, repeat)
            found.append(Entry(candidate, fidelity, FOLDS, *bench.both_costs(candidate.design)))
    return found


def inherits(bench: Workbench, entry: Entry) -> bool:
    """Whether a trial starts from the supernet's weights.

    Args:
        bench: The run's workbench.
        entry: The trial.
    """
    return bench.config.search.inherit and entry.stage in (FINALIST, RANKING)


def open_training(bench: Workbench, proposal: Proposal, host: Adapters | None = None, name: str = "own") -> TrainingRun:
    """The training of a trial: from the supernet's weights if the run says so.

    Args:
        bench: The run's workbench.
        proposal: The trial.
        host: Designs on the run's backbone, which this one joins; None for a backbone of its own.
        name: What it is called there.
    """
    entry = proposal.tried
    initial = shared_supernet(bench).inherited(entry.candidate.design) if inherits(bench, entry) else None
    return TrainingRun(bench, entry.candidate, entry.fidelity, initial=initial, files=bench.files, host=host, name=name)
