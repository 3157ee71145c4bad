"""A trial of Tune that is several jobs at once, in one worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from petlas.search.runners.blame import blame, told
from petlas.search.stages import open_packed
from petlas.search.stages.base import Proposal
from petlas.search.stages.rounds import Job
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

Members = Sequence[tuple[int, Mapping[str, Any]]]
"""What an epoch gave, by the numbers of the members: as `asdict` has a result, with `finished`, or an `error`."""


class PackWork:
    """What a worker does for several proposals at once; they are numbered in the order in which they come.

    Args:
        bench: The run's workbench.
        proposals: They.
    """

    def __init__(self, bench: Workbench, proposals: Iterable[Proposal]) -> None:
        numbered = [replace(proposal, number=number) for number, proposal in enumerate(proposals)]
        self._packed, self._count, self._left = open_packed(bench, numbered), len(numbered), set(range(len(numbered)))
        self._error: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether none is left."""
        return not self._left

    def add(self, proposals: Iterable[Proposal]) -> None:
        """Have further ones join; nobody waits for this, and what goes wrong is raised by the next epoch.

        Args:
            proposals: They.
        """
        numbered = [replace(proposal, number=number) for number, proposal in enumerate(proposals, self._count)]
        self._count += len(numbered)
        self._left.update(proposal.number for proposal in numbered)
        try:
            self._packed.add(numbered)
        except Exception as error:
            self._error = error

    def drop(self, numbers: Iterable[int]) -> None:
        """Go on without some.

        Args:
            numbers: Theirs.
        """
        for number in self._left.intersection(numbers):
            self._left.remove(number)
            self._packed.drop(number)

    def epoch(self) -> list[tuple[int, dict[str, Any]]]:
        """One epoch of each; who ended by itself is left out from then on."""
        if self._error is not None:
            raise self._error
        found: list[tuple[int, dict[str, Any]]] = []
        for number, outcome in self._packed.epoch().items():
            if isinstance(outcome, Exception):
                found.append((number, {"error": told(outcome)} | blame(outcome)))
            else:
                found.append((number, asdict(outcome) | {"finished": self._packed.finished(number)}))
        self.drop(number for number, outcome in found if outcome.get("finished", True))
        return found


class JobPack:
    """Jobs of one stage that one worker does; what comes of it is passed on to each.

    Args:
        jobs: They.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.bench, self.proposal, self.views = jobs[0].bench, jobs[0].proposal, jobs[0].views
        """Of all of them, but for the proposal, which is the first one's."""
        self.beside = [job.proposal for job in jobs[1:]]
        """The others' proposals."""
        self.limit: float | None = None
        """They have no time of their own."""
        self.left = dict(enumerate(jobs))
        """Those that have not ended, by the numbers that they have in the worker."""
        self._count = len(jobs)
        self._last: dict[int, EpochResult] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the run folder that one of them may read."""
        return tuple(dict.fromkeys(name for job in self.left.values() for name in job.files))

    def start(self) -> None:
        """Take note that a worker begins with them."""
        for job in self.left.values():
            job.start()

    def join(self, jobs: Sequence[Job]) -> None:
        """Have further jobs join, with which the worker begins at once.

        Args:
            jobs: They.
        """
        for job in jobs:
            job.start()
            self.left[self._count] = job
            self._count += 1

    def on_members(self, members: Members, device: str | None) -> list[int]:
        """Take note of an epoch of each.

        Args:
            members: What it gave.
            device: Where they run.

        Returns:
            Who has ended, by itself or since its stage stops it.
        """
        ended = []
        for number, outcome in members:
            job = self.left.get(number)
            if job is None:  # the last result is told twice
                continue
            if "error" in outcome:
                self._fail(number, outcome, device)
                ended.append(number)
                continue
            self._last[number] = result = epoch_result(outcome)
            if not job.on_epoch(result) or outcome["finished"]:
                del self.left[number]
                job.on_end(result, device=device)
                ended.append(number)
        return ended

    def _fail(self, number: int, outcome: Mapping[str, Any], device: str | None) -> None:
        job = self.left.pop(number)
        if outcome["fault"]:
            job.on_fault(outcome["error"])
        elif outcome["starved"]:
            job.on_starved(outcome["error"])
        else:
            job.on_end(self._last.get(number), outcome["error"], device)

    def on_end(self, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Take note that the worker came to an end: where it failed, each is tried again by itself.

        Args:
            result: Nothing: each has its own.
            error: What failed.
            device: Where they ran.
        """
        if error:
            self.on_starved(error)
        for number in list(self.left):
            self.left.pop(number).on_end(self._last.get(number), device=device)

    def on_lost(self, why: str) -> None:
        """Take note that the worker is gone: each is tried again, by itself where one of them may be to blame.

        Args:
            why: What is known of it; empty where it is nothing against them.
        """
        if why:
            self.on_starved(f"{why}, which trained several at once")
        for job in reversed(self._emptied()):  # each goes to the head of its queue
            job.on_lost("")

    def on_starved(self, why: str) -> None:
        """Take note that they are to be tried by themselves: who of them is to blame shows there.

        Args:
            why: What is known of it.
        """
        for job in reversed(self._emptied()):
            job.on_starved(why, counts=False)

    def on_fault(self, message: str) -> None:
        """Take note that the surroundings failed.

        Args:
            message: What happened.
        """
        for job in self._emptied():
            job.on_fault(message)

    def _emptied(self) -> list[Job]:
        jobs, self.left = list(self.left.values()), {}
        return jobs


def epoch_result(outcome: Mapping[str, Any]) -> EpochResult:
    """A result of an epoch as it was before it travelled.

    Args:
        outcome: Its fields, among others.
    """
    epoch, loss, val, seconds = (outcome[name] for name in ("epoch", "loss", "val", "seconds"))
    return EpochResult(epoch, loss, val, seconds, outcome.get("parts", 1), outcome.get("correct", ""))
