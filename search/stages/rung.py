"""The stage in which candidates are measured at one fidelity, all of them to their end but for those that diverge."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from petlas.search.stages.divergence import diverges
from petlas.search.stages.train import TrainStage
from petlas.search.study import Entry, StudyRecord
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")


class RungStage(TrainStage):
    """Trains what is queued. What is done with it is decided when all of it is done, so the order does not matter.

    Args:
        bench: The run's workbench.
        record: Its study.
        queue: What is trained; what the study has is not trained again.
        late: Whether the time for the search is up: nothing more begins then.
        usual: The losses that trainings at this fidelity have after their first epoch, as far as they are known.
        opening: What to say before its first training.
        closing: Says what came of it.
    """

    def __init__(
        self,
        bench: Workbench,
        record: StudyRecord,
        queue: Iterable[Entry],
        late: Callable[[], bool],
        usual: Sequence[float] = (),
        opening: str = "",
        closing: Callable[[], str] = lambda: "",
    ) -> None:
        super().__init__(bench, record, queue, late=late)
        self._usual, self._opening, self._closing = usual, opening, closing

    def owns(self, stage: str) -> bool:
        """None beside what is queued: what was cut off is queued again by whoever makes the stage."""
        return False

    def exhausted(self) -> bool:
        """Whether all is trained or running, or time is up."""
        return bool(self.fault) or not self._queue or self._late()

    def on_open(self) -> None:
        """Say what is to come."""
        log.info("%s", self._opening)

    def on_close(self) -> None:
        """Say what came of it."""
        log.info("%s", self._closing())

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Write down an epoch; whether the training goes on."""
        if result.epoch == 1:
            self.record.note_loss(number, result.loss)
        self._report(number, result.epoch, result.val)
        return not diverges(result.epoch, result.loss, self._usual)
