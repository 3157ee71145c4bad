"""What a stage is: it proposes work and takes in what came of it; a runner executes that work."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from petlas.errors import UserError
from petlas.search.stages.losses import MOST_LOSSES, Losses
from petlas.search.stages.proposer import Draw, Proposer
from petlas.search.study import Ending, Entry, Identity, StudyRecord
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")

NOT_BEGUN = -1
"""The number of a trial that still waits for a worker, and has none in the study."""

ROOM = "a GPU or a node to itself"
"""What work is given for which its share had too little memory."""


class SearchStopped(UserError):
    """The surroundings failed, and no candidate is to blame: the message says what happened; no trial was used up."""


@dataclass(frozen=True)
class Proposal:
    """Work to do: a trial, or something that trials need.

    Args:
        number: The trial's number in the study; NOT_BEGUN before it has one.
        entry: What is tried; None where the work is no trial.
        work: The kind of work: a name in `petlas.search.stages.WORKS`.
        alone: Whether it is to have a GPU or a node to itself, because its share of one had too little memory.
        notes: What else the work is told, as plain data.
    """

    number: int
    entry: Entry | None
    work: str
    alone: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tried(self) -> Entry:
        """What the trial tries."""
        assert self.entry is not None, "work of trials is proposed with what is tried"
        return self.entry

    def to_config(self) -> dict[str, Any]:
        """The proposal as the plain data that travels to a worker."""
        entry = None if self.entry is None else self.entry.attributes()
        return {"number": self.number, "entry": entry, "work": self.work, "notes": dict(self.notes)}

    @classmethod
    def from_config(cls, data: dict[str, Any]) -> Proposal:
        """The proposal of plain data: the inverse of `to_config`."""
        entry = None if data["entry"] is None else Entry.of_attributes(data["entry"])
        return cls(data["number"], entry, data["work"], notes=data["notes"])


class Stage(ABC):
    """A part of a search, to be done from where the study stands.

    Args:
        bench: The run's workbench.
    """

    work: ClassVar[str]
    """The kind of its work: a name in `petlas.search.stages.WORKS`."""
    views: ClassVar[tuple[str, ...]] = ("trainval",)
    """Of `trainval` and `test`, those whose images its work reads."""
    all_threads = False
    """Whether its work, where it is done in the driver's process, has all threads of that and not only a trial's."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.fault = ""
        """What the surroundings did that stops the search."""

    def on_open(self) -> None:  # noqa: B027 (most have nothing to say)
        """Say what is to be said before its first work."""

    def on_close(self) -> None:  # noqa: B027
        """Say what is to be said when all its work is done."""

    @abstractmethod
    def exhausted(self) -> bool:
        """Whether nothing more may start, beside what is proposed or running."""

    @abstractmethod
    def propose(self) -> Proposal:
        """What is to be done next; it may have to wait for a worker."""

    @property
    def limit(self) -> float | None:
        """How many seconds a piece of work may take; None for any number."""
        return None

    @property
    def pack(self) -> int:
        """How many trials may be done as one piece of work: see `petlas.search.stages.open_packed`."""
        return 1

    def files(self, proposal: Proposal) -> tuple[str, ...]:
        """The files of the run folder that work may read, by their names there."""
        return ()

    @abstractmethod
    def begin(self, proposal: Proposal) -> Proposal:
        """Take note that a worker begins with what was proposed; the proposal with its number."""

    @abstractmethod
    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Take note of an epoch.

        Args:
            number: The trial.
            result: What the epoch gave.

        Returns:
            Whether the work goes on.
        """

    @abstractmethod
    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Write down an end.

        Args:
            number: The trial.
            result: The last epoch; None if none was finished.
            error: What failed, if it was the work's own fault.
            device: Where it ran.
        """

    @abstractmethod
    def on_lost(self, number: int, why: str) -> None:
        """Take note that a worker is gone: its work is tried again, up to a limit.

        Args:
            number: The trial.
            why: What is known of it; empty where it is nothing against the work, whatever the limit.
        """

    def on_starved(self, number: int, why: str, counts: bool = True) -> None:
        """Take note that it had too little memory, or was lost, beside others: by default that is the end.

        Args:
            number: The trial.
            why: What is known of it.
            counts: Whether it counts as lost, and not those beside it may be to blame.
        """
        self.on_end(number, None, why)

    @abstractmethod
    def on_fault(self, number: int, message: str) -> None:
        """Take note that the surroundings failed, which no candidate is to blame for: the stage stops.

        Args:
            number: The trial; it counts as never tried. NOT_BEGUN if it never began.
            message: What happened.
        """


class Chore(Stage):
    """A stage of one piece of work that is no trial; nothing of the search goes on without it.

    Args:
        bench: The run's workbench.
        needed: Whether anything is still to be done with what comes of it.
    """

    def __init__(self, bench: Workbench, needed: bool) -> None:
        super().__init__(bench)
        self._needed, self._alone, self._losses = needed, False, Losses()

    def exhausted(self) -> bool:
        """Whether it is done, being done, or not needed."""
        return bool(self.fault) or not self._needed

    def propose(self) -> Proposal:
        """The work."""
        self._needed = False
        return Proposal(NOT_BEGUN, None, self.work, self._alone)

    def begin(self, proposal: Proposal) -> Proposal:
        """Nothing is written down."""
        return proposal

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """It goes on to its end."""
        self._losses.reach(result.epoch)
        return True

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Its end, without which the search cannot go on.

        Raises:
            RuntimeError: When it failed by its own fault.
        """
        if error:
            raise RuntimeError(f"{self.work}: {error}")

    def on_lost(self, number: int, why: str) -> None:
        """Let it be done again, from where it is kept.

        Raises:
            RuntimeError: When it was lost too often.
        """
        self._needed = True
        if not why:
            return
        count = self._losses.lose()
        if count >= MOST_LOSSES:
            raise RuntimeError(f"{self.work}: {why}, {count} times")
        log.warning("%s: %s; it is tried again (%d of %d)", self.work, why, count + 1, MOST_LOSSES)

    def on_starved(self, number: int, why: str, counts: bool = True) -> None:
        """Let it be done again with a GPU or a node to itself."""
        self._needed = self._alone = True
        log.warning("%s: %s; it is tried again with %s", self.work, why, ROOM)

    def on_fault(self, number: int, message: str) -> None:
        """The search stops."""
        self.fault = self.fault or message


class TrialStage(Stage):
    """A stage of trials: what is queued goes first, in order, and then what its proposer draws.

    Args:
        bench: The run's workbench.
        record: Its study. What it has already is not tried again, and what was cut off goes first.
        queue: What is to be tried whatever is drawn.
        proposer: Draws further candidates; None for none.
        again: What is tried once more, first of all, although the study has it.
    """

    def __init__(
        self,
        bench: Workbench,
        record: StudyRecord,
        queue: Iterable[Entry] = (),
        proposer: Proposer | None = None,
        again: Iterable[Entry] = (),
    ) -> None:
        super().__init__(bench)
        self.record, self._proposer = record, proposer
        self._proposed: dict[Identity, Draw] = {}
        self._running: dict[int, Draw] = {}
        self._starved: set[Identity] = set()
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
    def limit(self) -> float | None:
        """How many seconds a trial may take."""
        return self.bench.config.resources.trial_timeout

    @property
    def queued(self) -> tuple[Entry, ...]:
        """What is still to be tried whatever is drawn."""
        return tuple(entry for entry, _ in self._queue)

    @property
    def repeats(self) -> bool:
        """Whether what comes next is in the study already, and is tried once more."""
        return bool(self._queue) and self._queue[0][0].identity in self._again

    @property
    def next_is_alone(self) -> bool:
        """Whether what comes next is to have a GPU or a node to itself."""
        return bool(self._queue) and self._queue[0][0].identity in self._starved

    @property
    def waiting(self) -> int:
        """How many of its trials are proposed, and wait for a worker."""
        return len(self._proposed)

    @property
    def running(self) -> int:
        """How many of its trials are running."""
        return len(self._running)

    def propose(self) -> Proposal:
        """The next trial; nothing is written down before it begins."""
        if self._queue:
            entry, draw = self._queue.popleft()
            if draw is None:
                draw = self._proposer.take(entry.candidate, entry.number) if self._proposer else Draw(entry.candidate)
        else:
            assert self._proposer is not None, "exhausted() says whether there is anything to propose"
            draw = self._proposer.draw()
            entry = self.entry(draw.candidate)
        entry = replace(entry, number=draw.number)
        self._proposed[entry.identity] = draw
        return Proposal(NOT_BEGUN, entry, self.work, entry.identity in self._starved)

    def begin(self, proposal: Proposal) -> Proposal:
        """Write a trial down as running."""
        draw = self._proposed.pop(proposal.tried.identity)
        number = self.record.begin(proposal.tried, draw.parameters, draw.distributions, draw.system)
        self._running[number] = draw
        return replace(proposal, number=number)

    def on_lost(self, number: int, why: str) -> None:
        """Let the trial be tried again, with the values that it had."""
        draw, entry = self._running.pop(number), Entry.of_attributes(self.record.trials()[number].user_attrs)
        lost = self.record.losses(entry) if why else 0
        if lost >= MOST_LOSSES:
            self._running[number] = draw
            self.on_end(number, None, f"{why}, {lost} times")
            return
        self.record.lose(number, why)
        self._queue.appendleft((entry, draw))
        if why:
            log.warning("trial %3d  %s; it is tried again (%d of %d)", number, why, lost + 1, MOST_LOSSES)

    def on_starved(self, number: int, why: str, counts: bool = True) -> None:
        """Let the trial be tried again with a GPU or a node to itself, with the values that it had."""
        draw, entry = self._running.pop(number), Entry.of_attributes(self.record.trials()[number].user_attrs)
        self._starved.add(entry.identity)
        self.record.lose(number, why, counts)
        self._queue.appendleft((entry, draw))
        log.warning("trial %3d  %s; it is tried again with %s", number, why, ROOM)

    def on_fault(self, number: int, message: str) -> None:
        """Write the trial down as cut off."""
        self.fault = self.fault or message
        if number != NOT_BEGUN:
            self._running.pop(number, None)
            self.record.lose(number)

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
