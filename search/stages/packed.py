"""Several trials in training at once, in one process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from petlas.petl import Adapters, groups
from petlas.search.stages.base import Proposal
from petlas.search.stages.train import open_training
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import EpochResult, PackTraining
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")

Outcome: TypeAlias = EpochResult | Exception
"""What an epoch gave, or why there will be no further one."""


class PackedRuns:
    """Trainings of trials on one backbone: those whose designs go together are stepped together, others by themselves.

    Each has its own checkpoint, which does not say how it was trained. They may end and be joined by others after any
    epoch. Where a step of several fails, for want of memory above all, they go on in two halves from their last epoch,
    until the one at fault is by itself; where memory was short, no more than that are stepped together from then on.

    Args:
        bench: The run's workbench.
        proposals: The trials.
    """

    def __init__(self, bench: Workbench, proposals: Iterable[Proposal]) -> None:
        self._bench, self._host = bench, Adapters(bench.backbone().to(bench.device))
        self._proposals: dict[int, Proposal] = {}
        self._runs: dict[int, TrainingRun] = {}
        self._seconds, self._had = dict[int, float](), dict[int, int]()
        self._failed: dict[int, Exception] = {}
        self._groups: list[tuple[int, ...]] = []
        self._packs: dict[tuple[int, ...], PackTraining] = {}
        self._most = math.inf
        """How many are stepped together at most."""
        self.add(proposals)

    def add(self, proposals: Iterable[Proposal]) -> None:
        """Have further trials join.

        Args:
            proposals: They.
        """
        new = []
        for proposal in proposals:
            new.append(proposal.number)
            self._proposals[proposal.number] = proposal
            self._seconds[proposal.number], self._had[proposal.number] = 0.0, 0
            self._open(proposal.number)
        self._place([number for number in new if number in self._runs])

    def epoch(self) -> dict[int, Outcome]:
        """One epoch of each trial; those that have to begin an epoch anew are missing."""
        found: dict[int, Outcome] = dict(self._failed)
        self._failed = {}
        for group in self._groups.copy():
            found |= self._epoch_of(group)
        return found

    def finished(self, number: int) -> bool:
        """Whether no further epoch of a trial is to come.

        Args:
            number: Its number.
        """
        return number not in self._runs or self._runs[number].finished

    def drop(self, number: int) -> None:
        """Go on without a trial.

        Args:
            number: Its number.
        """
        self._close(number)
        left = [tuple(other for other in group if other != number) for group in self._groups]
        self._groups = [group for group in left if group]

    def _open(self, number: int) -> None:
        """Begin a training, or take it up."""
        start, name = time.perf_counter(), _name(number)
        try:
            self._runs[number] = open_training(self._bench, self._proposals[number], self._host, name)
        except Exception as error:
            self._failed[number] = error
            if name in self._host:
                self._host.remove(name)
        self._seconds[number] += time.perf_counter() - start

    def _close(self, number: int) -> None:
        if self._runs.pop(number, None) is not None:
            self._host.remove(_name(number))

    def _place(self, new: Sequence[int]) -> None:
        """Put trials to those with which they go together; says who that is."""
        if not new:
            return
        numbers = {_name(number): number for number in self._runs}
        try:
            found, alone = groups(self._host, numbers)
        except Exception as error:
            self._place_each(new, error)
            return
        for name, reason in alone.items():
            if numbers[name] in new:
                log.debug("trained by itself: %s", reason)
        for names in found:
            alike = [numbers[name] for name in names]
            for number in alike:
                if number in new:
                    others = (own for own in self._groups if own[0] in alike and len(own) < self._most)
                    joined = next(others, ())
                    self._groups = [own for own in self._groups if own != joined] + [(*joined, number)]
        told = [", ".join(map(str, group)) for group in self._groups]
        log.info("in one pack each: trials %s", "; ".join(told))

    def _place_each(self, new: Sequence[int], error: Exception) -> None:
        """Place trials of which one cannot be run: that one fails, or, where nobody can tell who, each is alone."""
        fit = []
        for number in new:
            try:
                groups(self._host, [_name(number)])
                fit.append(number)
            except Exception as own:
                self._failed[number] = own
                self._close(number)
        if len(fit) < len(new):
            self._place(fit)
            return
        log.debug("trials %s are trained one by one", fit, exc_info=error)
        self._groups += [(number,) for number in fit]

    def _epoch_of(self, group: tuple[int, ...]) -> dict[int, Outcome]:
        start = time.perf_counter()
        going = tuple(number for number in group if not self._runs[number].unmeasured)  # others were taken up there
        try:
            self._train(group, going)
        except Exception as error:
            log.debug("trials %s failed in one pack", going, exc_info=True)
            if len(group) > 1:
                if isinstance(error, torch.OutOfMemoryError | MemoryError):
                    self._most = math.ceil(len(group) / 2)
                self._halve(group)
                return {}
            return dict.fromkeys(group, error)
        for number in going:
            self._seconds[number] += (time.perf_counter() - start) / len(going)
        return {number: self._measured(number) for number in group}

    def _train(self, group: tuple[int, ...], going: tuple[int, ...]) -> None:
        """One epoch of some of a group."""
        if len(going) < 2:
            for number in going:
                self._runs[number].train_epoch()
            return
        if group not in self._packs:
            members = {_name(number): self._runs[number] for number in group}
            self._packs = {group: PackTraining(self._host, members)} | {
                known: pack for known, pack in self._packs.items() if not set(known) & set(group)
            }
        self._packs[group].train_epoch(map(_name, going))

    def _measured(self, number: int) -> Outcome:
        start = time.perf_counter()
        try:
            result = self._runs[number].measured()
        except Exception as error:
            return error
        self._seconds[number] += time.perf_counter() - start
        self._had[number] = result.epoch
        return replace(result, seconds=self._seconds[number])

    def _halve(self, group: tuple[int, ...]) -> None:
        """Take all of a group up again where their last epoch ended, in two groups."""
        for number in group:
            self._close(number)
        if self._bench.device.type == "cuda":
            torch.cuda.empty_cache()
        for number in group:
            self._open(number)
            if number in self._runs:
                self._catch_up(number)
        self._packs = {known: pack for known, pack in self._packs.items() if not set(known) & set(group)}
        opened = [number for number in group if number in self._runs]
        middle = math.ceil(len(opened) / 2)
        halves: Sequence[Sequence[int]] = (opened[:middle], opened[middle:])
        self._groups = [own for own in self._groups if own != group] + [tuple(half) for half in halves if half]
        log.info("trials %s go on in packs of half as many", ", ".join(map(str, group)))

    def _catch_up(self, number: int) -> None:
        """Have a training that was opened again where it was last measured."""
        run, epochs = self._runs[number], self._had[number]
        try:
            while run.progress.epochs < epochs:
                run.train_epoch()
        except Exception as error:
            self._failed[number] = error
            self._close(number)
            return
        run.unmeasured = run.progress.epochs > epochs


def _name(number: int) -> str:
    return f"trial{number}"
