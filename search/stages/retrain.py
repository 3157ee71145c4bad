"""The stage that retrains on train+val after the selection: each seed is tested once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from petlas.files import json_bytes
from petlas.petl import AdapterError, read_adapter_info, save_adapter
from petlas.search.objectives import Objective
from petlas.search.predictions import About, Predictions, predictions_name
from petlas.search.run_folder import CHECKPOINTS
from petlas.search.stages.base import ROOM, Proposal, Stage
from petlas.search.stages.losses import MOST_LOSSES, Losses
from petlas.search.stages.training_run import TrainingRun, checkpoint_name, settings_of
from petlas.search.study import Entry
from petlas.search.training import EpochResult, Fidelity, Work
from petlas.search.training.options import design_of_training
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")

RETRAINED = "retrained"
"""Where the adapter file of every seed is kept."""
TEST_READS = "test_reads.json"
"""Who read the test split, and when."""

_SAID_EVERY = 15.0  # seconds


@dataclass(frozen=True)
class Wanted:
    """A training that is asked for, to be tested.

    Args:
        name: What the candidate is called.
        candidate: What is trained.
        seed: With which seed.
        val: The candidate's value on the selection split, which its adapter file says; None if it has none.
    """

    name: str
    candidate: Candidate
    seed: int
    val: float | None

    @property
    def about(self) -> str:
        """For messages."""
        return f"retraining {self.name} with seed {self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """What is the same training, under whatever name."""
        return self.candidate.key, self.seed


class RetrainStage(Stage):
    """Retrains seeds of candidates, and has each tested; what was retrained before is neither trained nor tested again.

    Only the driver writes down that the test split is read, before a worker reads it.

    Args:
        bench: The run's workbench; its folder is held by this process.
        wanted: The seeds, in order.

    Raises:
        DesignError: When a design cannot be inserted.
        UserError: When a candidate has a setting that training does not know.
    """

    work = "retrain"
    views = ("trainval", "test")
    all_threads = True

    def __init__(self, bench: Workbench, wanted: Sequence[Wanted]) -> None:
        super().__init__(bench)
        self._epochs = bench.config.train.epochs
        self.tests: dict[tuple[str, int], float] = {}
        """The values on test that are known, by candidates' keys and seeds."""
        todo: dict[tuple[str, int], Wanted] = {}
        for one in wanted:
            bench.cost(design_of_training(one.candidate))
            settings_of(bench.config.train, one.candidate, self._epochs)
            if one.key not in todo and one.key not in self.tests and not self._knows(one):
                todo[one.key] = one
        self._todo = list(todo.values())
        self._queue = deque(range(len(self._todo)))
        self._losses = [Losses() for _ in self._todo]
        self._alone: set[int] = set()
        self._said = time.monotonic()

    @property
    def left(self) -> int:
        """How many seeds are still to be trained."""
        return len(self._queue)

    def _knows(self, one: Wanted) -> bool:
        """Whether there is an adapter file that was made of exactly the same, and its value on test with it."""
        kept = _kept(self.bench.config.folder / adapter_name(one.candidate, one.seed), self._stamp(one))
        if kept is not None:
            shown = self.bench.objective.metric.format(kept)
            log.info("retrained %-12s seed %d  test %s, already: it is not read again", one.name, one.seed, shown)
            self.tests[one.key] = kept
        return kept is not None

    def exhausted(self) -> bool:
        """Whether all seeds are trained, or being trained."""
        return bool(self.fault) or not self._queue

    def propose(self) -> Proposal:
        """The next seed."""
        number = self._queue.popleft()
        one = self._todo[number]
        params = self.bench.cost(one.candidate.design)
        entry = Entry(one.candidate, Fidelity(self._epochs, one.seed), self.work, params)
        score = {} if one.val is None else {"val": one.val}
        test = self.bench.fingerprint(self.bench.task.views["test"])
        notes = {"stamp": self._stamp(one), "score": score, "name": one.name, "test": test}
        return Proposal(number, entry, self.work, number in self._alone, notes)

    def files(self, proposal: Proposal) -> tuple[str, ...]:
        """The training as it was left."""
        return (_checkpoint(proposal.tried),)

    def begin(self, proposal: Proposal) -> Proposal:
        """Nothing is written down."""
        return proposal

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Take note of an epoch, and behind the last one that the test split is read.

        Raises:
            RuntimeError: When the training diverged.
        """
        one = self._todo[number]
        self._losses[number].reach(result.epoch)
        if result.epoch > self._epochs:  # it is tested
            return True
        if not math.isfinite(result.loss):
            raise RuntimeError(f"{one.about} diverged in epoch {result.epoch}; lower train.lr")
        if result.epoch == self._epochs:
            note_read(self.bench, one.name, one.candidate, one.seed)
        elif time.monotonic() - self._said >= _SAID_EVERY:
            self._said = time.monotonic()
            epochs = f"{result.epoch}/{self._epochs}"
            log.info("retraining %-12s seed %d  epoch %-7s loss %.3f", one.name, one.seed, epochs, result.loss)
        return True

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        """Take in a seed's value on test; its adapter file is in the run folder.

        Raises:
            RuntimeError: When it has none.
        """
        one = self._todo[number]
        if error or result is None:
            raise RuntimeError(f"{one.about}: {error}")
        if not math.isfinite(result.val):
            raise RuntimeError(f"{one.about} diverged in the last epoch; lower train.lr")
        self.tests[one.key] = result.val
        shown = self.bench.objective.metric.format(result.val)
        log.info("retrained %-12s seed %d  test %6s  %5.0f s", one.name, one.seed, shown, result.seconds)
        name = checkpoint_name(one.candidate, Fidelity(self._epochs, one.seed), "trainval")
        (self.bench.config.folder / name).unlink(missing_ok=True)

    def on_close(self) -> None:
        """Remove what was left of these candidates' trainings by seeds that nobody asks for any more."""
        checkpoints = self.bench.config.folder / CHECKPOINTS
        for one in self._todo:
            for left in checkpoints.glob(f"{one.candidate.key}-trainval-*"):
                left.unlink()
        with suppress(OSError):  # others may be kept there
            checkpoints.rmdir()

    def on_lost(self, number: int, why: str) -> None:
        """Let the seed be trained again, from its last whole epoch.

        Raises:
            RuntimeError: When it was lost too often without getting any further.
        """
        one, count = self._todo[number], self._losses[number].lose() if why else 0
        if count >= MOST_LOSSES:
            raise RuntimeError(f"{one.about}: {why}, {count} times")
        self._queue.appendleft(number)
        if why:
            log.warning("%s: %s; it is tried again (%d of %d)", one.about, why, count + 1, MOST_LOSSES)

    def on_starved(self, number: int, why: str, counts: bool = True) -> None:
        """Let the seed be trained again with a GPU or a node to itself."""
        self._alone.add(number)
        self._queue.appendleft(number)
        log.warning("%s: %s; it is tried again with %s", self._todo[number].about, why, ROOM)

    def on_fault(self, number: int, message: str) -> None:
        """Retraining stops."""
        self.fault = self.fault or message

    def _stamp(self, one: Wanted) -> str:
        """A hash of all that determines a seed's value on test."""
        views = self.bench.task.views
        parts = self.bench.stamp(
            candidate=one.candidate.to_dict(),
            seed=one.seed,
            data=self.bench.fingerprint(views["trainval"]),
            test=self.bench.fingerprint(views["test"]),
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class _Said:
    """Takes in what a model says of images batch by batch; logits would be too many to keep.

    Args:
        objective: What they are of.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor) -> None:
        """Take in a batch (B, K)."""
        confidences = self._objective.confidences(logits.float())
        self._parts.append((self._objective.said(confidences), confidences.amax(dim=1)))

    def arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """What was said of all images, and how sure it was."""
        said, sure = (torch.cat(parts).cpu().numpy() for parts in zip(*self._parts, strict=True))
        return said, sure


class Retraining:
    """One seed's training on train+val, from where it stands; and then, as one step more, its test.

    Args:
        bench: The run's workbench.
        proposal: The seed.
    """

    def __init__(self, bench: Workbench, proposal: Proposal) -> None:
        self._start = time.perf_counter()
        self._bench, self._proposal, self.finished, self._trained = bench, proposal, False, False
        entry = proposal.tried
        self._run = TrainingRun(bench, entry.candidate, entry.fidelity, "trainval", None, files=bench.files)

    def epoch(self) -> EpochResult:
        """An epoch without a measurement, or the test behind the last one: its value is `val`."""
        if self._trained:
            return self._test()
        if self._run.finished:  # it was cut off before its test
            result = EpochResult(*self._run.progress, math.nan, time.perf_counter() - self._start)
        else:
            result = self._run.epoch()
        self._trained = self._run.finished
        return result

    def _test(self) -> EpochResult:
        """Test, once, and keep what was said of each image and what was trained, unless it is of no use."""
        self.finished = True
        entry, said = self._proposal.tried, _Said(self._bench.objective)
        test = self._run.test(said.add)
        if math.isfinite(test):
            key, seed, files = entry.candidate.key, entry.fidelity.seed, self._bench.files
            files.write(predictions_name(key, seed), self._predictions(said).to_bytes())
            files.write(adapter_name(entry.candidate, seed), self._adapter(test))
        return EpochResult(entry.fidelity.epochs + 1, 0.0, test, time.perf_counter() - self._start)

    def _predictions(self, said: _Said) -> Predictions:
        """What was said, with the names that people know the images by."""
        entry, notes, task = self._proposal.tried, self._proposal.notes, self._bench.task
        view = task.views["test"]
        about = About(notes["name"], entry.candidate.key, entry.fidelity.seed, notes["test"])
        images = tuple(view.source.name(int(index)) for index in view.indices)
        return Predictions(about, task.classes, images, view.targets, *said.arrays())

    def _adapter(self, test: float) -> bytes:
        """The adapter file."""
        bench, notes = self._bench, self._proposal.notes
        with tempfile.TemporaryDirectory(prefix="petlas-") as scratch:
            path = Path(scratch) / "adapter.safetensors"
            save_adapter(
                self._run.model,
                path,
                classes=bench.task.classes,
                score={"test": test} | notes["score"],
                task=bench.about_task | {"stamp": notes["stamp"]},
                kind=bench.task.kind,
                metric=bench.objective.metric.name,
                input=bench.inputs,
            )
            return path.read_bytes()


def open_retraining(bench: Workbench, proposal: Proposal) -> Work:
    """The retraining of a seed.

    Args:
        bench: The run's workbench.
        proposal: The seed.
    """
    return Retraining(bench, proposal)


def note_read(bench: Workbench, name: str, candidate: Candidate, seed: int | None) -> None:
    """Write down that the test split is read; a choice among many readings is a choice by the test split.

    Args:
        bench: The run's workbench.
        name: What the candidate is called.
        candidate: What is tested.
        seed: With which seed it was trained; None for several together.
    """
    reads = _reads(bench)
    others = {read["key"] for read in reads} - {candidate.key}
    if others:
        log.info("the test split was read for %d other candidates before: do not choose by it", len(others))
    when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    read = {"name": name, "key": candidate.key, "seed": seed, "when": when}
    bench.files.write(TEST_READS, json_bytes([*reads, read]))


def adapter_name(candidate: Candidate, seed: int) -> str:
    """Where in a run folder the adapter file of a retrained seed is kept.

    Args:
        candidate: What was retrained.
        seed: The seed.
    """
    return f"{RETRAINED}/{candidate.key}-{seed}.safetensors"


def readings(bench: Workbench, candidate: Candidate) -> int:
    """How often the test split was read for the seed of a candidate that it was read for most often.

    Args:
        bench: The run's workbench.
        candidate: The candidate.
    """
    own = (read for read in _reads(bench) if read["key"] == candidate.key)
    seeds = Counter(read["seed"] for read in own if read["seed"] is not None)
    return max(seeds.values(), default=1)


def _checkpoint(entry: Entry) -> str:
    return checkpoint_name(entry.candidate, entry.fidelity, "trainval")


def _kept(path: Path, stamp: str) -> float | None:
    """The value on test of an adapter file that was made of exactly the same; None where there is none."""
    try:
        info = read_adapter_info(path)
    except AdapterError:
        return None
    return info.score.get("test") if info.task.get("stamp") == stamp else None


def _reads(bench: Workbench) -> list[dict[str, Any]]:
    """Every reading of the test split so far."""
    reads: list[dict[str, Any]] = json.loads(bench.files.read(TEST_READS) or b"[]")
    return reads
