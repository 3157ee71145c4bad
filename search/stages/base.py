"""What a stage is: it proposes work and takes in what came of it; a runner executes that work."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from petlas.errors import UserError
from petlas.search.stages.proposer import Draw, Proposer
from petlas.search.study import Ending, Entry, StudyRecord
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")

MOST_LOSSES = 3
"""How often a trial whose worker dies is tried before that is held to be its own fault."""


class SearchStopped(UserError):
    """The surroundings failed, and no candidate is to blame: the message says what happened; no trial was used up."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Args:
        number: Its number in the study.
        entry: What it tries.
        work: The kind of work: a name in `petlas.search.stages.WORKS`.
    """

    number: int
    entry: Entry
    work: str

    def to_config(self) -> dict[str, Any]:
        """The proposal as the plain data that travels to a worker."""
        return {"number": self.number, "entry": self.entry.attributes(), "work": self.work}

    @classmethod
    def from_config(cls, data: dict[str, Any]) -> Proposal:
        """The proposal of plain data: the inverse of `to_config`."""
        return cls(data["number"], Entry.of_attributes(data["entry"]), data["work"])


class Runner(Protocol):
    """What executes the work of stages: Ray Tune, or this process."""

    def run(self, stage: TrialStage) -> None:
        """Run trials until the stage is exhausted."""

    def epochs(self, make: Callable[[Workbench], Work], bench: Workbench) -> Iterator[EpochResult]:
        """The epochs of one piece of work that is no trial.

        Args:
            make: Begins it, in the process that does it.
            bench: The run's workbench.
        """


class Stage(ABC):
    """A part of a search, to be done from where the study stands."""

    @abstractmethod
    def exhausted(self) -> bool:
        """Whether nothing more may start, beside what is running."""

    @abstractmethod
    def run(self, runner: Runner) -> None:
        """Do what is left of it."""


class TrialStage(Stage):
    """A stage of trials: what is queued goes first, in order, and then what its proposer draws.

    Args:
        bench: The run's workbench.
        record: Its study. What it has already is not tried again, and what was cut off goes first.
        queue: What is to be tried whatever is drawn.
        proposer: Draws further candidates; None for none.
        again: What is tried once more, first of all, although the study has it.
    """

    work: ClassVar[str]
    """The kind of work of its trials: a name in `petlas.search.stages.WORKS`."""

    def __init__(
        self,
        bench: Workbench,
        record: StudyRecord,
        queue: Iterable[Entry] = (),
        proposer: Proposer | None = None,
        again: Iterable[Entry] = (),
    ) -> None:
        self.bench, self.record, self._proposer = bench, record, proposer
        self.fault = ""
        """What the surroundings did that stops the search."""
        self._running: dict[int, Draw] = {}
        self._queue: deque[tuple[Entry, Draw | None]] = deque((entry, None) for entry in again)
        self._again = {entry.identity for entry, _ in self._queue}
        cut = [entry for entry in record.cut_off() if self.owns(entry.stage)]
        known = record.known()
        for entry in (*cut, *queue):
            if entry.identity not in known:
                known.add(entry.identity)
                self._queue.append((entry, None))
        if proposer is not None:
            proposer.learn(trial for trial in record.counted() if self.owns(trial.user_attrs["stage"]))

    @abstractmethod
    def owns(self, stage: str) -> bool:
        """Whether trials of that name in the study are of this stage."""

    @abstractmethod
    def entry(self, candidate: Candidate) -> Entry:
        """What is tried of a candidate that was drawn."""

    @property
    def queued(self) -> tuple[Entry, ...]:
        """What is still to be tried whatever is drawn."""
        return tuple(entry for entry, _ in self._queue)

    @property
    def repeats(self) -> bool:
        """Whether what comes next is in the study already, and is tried once more."""
        return bool(self._queue) and self._queue[0][0].identity in self._again

    @property
    def running(self) -> int:
        """How many of its trials are running."""
        return len(self._running)

    def run(self, runner: Runner) -> None:
        """Run trials until the stage is exhausted.

        Raises:
            SearchStopped: When the surroundings failed.
        """
        runner.run(self)
        if self.fault:
            raise SearchStopped(self.fault)

    def propose(self) -> Proposal:
        """The next trial, written down as running."""
        if self._queue:
            entry, draw = self._queue.popleft()
            if draw is None:
                draw = self._proposer.take(entry.candidate) if self._proposer else Draw(entry.candidate)
        else:
            assert self._proposer is not None, "exhausted() says whether there is anything to propose"
            draw = self._proposer.draw()
            entry = self.entry(draw.candidate)
        number = self.record.begin(entry, draw.parameters, draw.distributions, draw.system)
        self._running[number] = draw
        return Proposal(number, entry, self.work)

    @abstractmethod
    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Take note of an epoch.

        Args:
            number: The trial.
            result: What the epoch gave.

        Returns:
            Whether the trial goes on.
        """

    @abstractmethod
    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Write down a trial's end.

        Args:
            number: The trial.
            result: Its last epoch; None if it never finished one.
            error: Its own fault, if it failed.
            device: Where it ran.
        """

    def on_lost(self, number: int, why: str) -> None:
        """Take note that a trial's worker is gone: it is tried again, up to a limit.

        Args:
            number: The trial.
            why: What is known of it.
        """
        draw, entry = self._running.pop(number), Entry.of_attributes(self.record.trials()[number].user_attrs)
        lost = self.record.losses(entry) + 1
        if lost >= MOST_LOSSES:
            self._running[number] = draw
            self.on_end(number, None, f"{why}, {lost} times")
            return
        self.record.lose(number, why)
        self._queue.appendleft((entry, draw))
        log.warning("trial %3d  %s; it is tried again (%d of %d)", number, why, lost + 1, MOST_LOSSES)

    def on_fault(self, number: int, message: str) -> None:
        """Take note that the surroundings failed a trial, which no candidate is to blame for: the stage stops.

        Args:
            number: The trial; it counts as never tried.
            message: What happened.
        """
        self._running.pop(number, None)
        self.record.lose(number)
        self.fault = self.fault or message

    def _report(self, number: int, epoch: int, value: float) -> None:
        self.record.report(number, epoch, value)
        place = self._running[number].place if number in self._running else None
        if self._proposer is not None and place is not None:
            self._proposer.report(place, epoch, value)

    def _close(self, number: int, ending: Ending) -> None:
        """Write down a trial's end, and let the sampler learn from it."""
        draw, (state, values) = self._running.pop(number, None), self.record.outcome(number, ending)
        if self._proposer is not None and draw is not None and draw.place is not None:
            self.record.keep_system(number, self._proposer.tell(draw.place, state, values))
        self.record.finish(number, ending)
