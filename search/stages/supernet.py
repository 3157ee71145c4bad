"""The stage that trains the supernet of a run's space, and reading what it learned."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from petlas.petl import Design, Supernet, prepare, reset_head
from petlas.search.config import TrainConfig, space_of
from petlas.search.run_folder import RunError
from petlas.search.stages.base import Chore, Proposal
from petlas.search.training import EpochResult, Inputs, Learner, Work, load_checkpoint
from petlas.search.training.augment import Targets
from petlas.search.workbench import SERVED, Workbench

log = logging.getLogger("petlas")

FILE = "supernet.safetensors"
"""Where in a run folder the supernet's training is kept."""


class SupernetStage(Chore):
    """The supernet's training, from where it stands.

    Args:
        bench: The run's workbench.
        needed: Whether anything is still to be done with it.
        tick: Called after each epoch, so that the time it took is written down.
    """

    work = "supernet"

    def __init__(self, bench: Workbench, needed: bool, tick: Callable[[], object] = lambda: None) -> None:
        super().__init__(bench, needed)
        self._tick = tick

    def files(self, proposal: Proposal) -> tuple[str, ...]:
        """The training as it was left."""
        return (FILE,)

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        """Tell the epoch."""
        self._tick()
        epochs = f"{result.epoch}/{self.bench.config.supernet.epochs}"
        log.info("supernet  epoch %-7s loss %.3f  %5.0f s", epochs, result.loss, result.seconds)
        return super().on_epoch(number, result)


def open_supernet(bench: Workbench, proposal: Proposal) -> Work:
    """The training of the run's supernet.

    Args:
        bench: The run's workbench.
        proposal: Says no more than that.
    """
    return SupernetRun(bench)


class SupernetRun(Learner):
    """The supernet in training: random designs of the space share its weights.

    Single-path (Guo et al., 2020; NOAH): one random design in each step. Sandwich (Yu et al., 2019 and 2020): the
    largest, the smallest and some random ones in each step; all but the largest learn from its outputs.

    Args:
        bench: The run's workbench; its files keep `supernet.safetensors`.
    """

    still = False

    def __init__(self, bench: Workbench) -> None:
        self._start = time.perf_counter()
        self.settings = bench.config.supernet
        self.space, self.budget = bench.space, bench.budget
        self.supernet = make_supernet(bench)
        model, train = self.supernet.model, supernet_training(bench)
        learned, seed = bench.task.views["train"], bench.config.seed
        prepare(model, bench.batches(learned.sample(len(learned), seed), train.batch_size), bench.objective.loss)
        data = bench.training_batches(model, learned, train)
        super().__init__(model, data, bench.objective, train, seed, bench.files.file(FILE), stamp_of(bench))

    def epoch(self) -> EpochResult:
        """Train for one epoch; nothing is measured.

        Raises:
            RunError: When the loss is not finite.
        """
        self.train_epoch()
        if not math.isfinite(self.progress.loss):
            raise RunError(f"the supernet diverged in epoch {self.progress.epochs}; lower supernet.lr")
        return EpochResult(*self.progress, math.nan, time.perf_counter() - self._start)

    def accumulate(self, images: Inputs, targets: Targets) -> Tensor:
        """The gradients of one step's designs.

        Args:
            images: (B, 3, S, S), or what stands in for them.
            targets: (B,) or (B, K), or mixed.
        """
        if self.settings.sampling == "single":
            return self._learn(self.draw(), images, targets)
        self.supernet.activate(self.space.largest)
        logits = self.forward(images)
        loss = self.loss(logits, targets)
        loss.backward()
        taught = self.objective.soften(logits.detach())
        for design in (self.space.smallest, *(self.draw() for _ in range(self.settings.random))):
            self._distil(design, images, taught)
        return loss.detach()

    def _learn(self, design: Design, images: Inputs, targets: Targets) -> Tensor:
        """Gradients of one design against the targets."""
        self.supernet.activate(design)
        loss = self.loss(self.forward(images), targets)
        loss.backward()
        return loss.detach()

    def _distil(self, design: Design, images: Inputs, taught: Tensor) -> None:
        """Gradients of one design against what the largest one says (B, K)."""
        self.supernet.activate(design)
        self.objective.distil(self.forward(images), taught).backward()

    def draw(self) -> Design:
        """A random design within the budget: evenly over designs, or over parameter counts."""
        if self.settings.draw == "designs":
            return self.space.sample(self.rng, self.budget).design
        return self.space.sample_by_cost(self.rng, self.budget)


def make_supernet(bench: Workbench) -> Supernet:
    """A supernet before training."""
    model = bench.backbone()
    torch.manual_seed(bench.config.seed)
    reset_head(model, bench.objective.outputs(bench.task.num_classes))
    supernet = Supernet(model, bench.space.largest, bench.config.supernet.balanced)
    model.to(bench.device)
    return supernet


def supernet_training(bench: Workbench) -> TrainConfig:
    """The settings of the supernet's training: those of `train` with what `supernet` sets."""
    own = bench.config.supernet
    changed = {"epochs": own.epochs, "lr": own.lr, "warmup_epochs": own.warmup_epochs}
    return bench.config.train.model_copy(update=changed)


def stamp_of(bench: Workbench) -> dict[str, object]:
    """Everything that determines the supernet's numbers."""
    config = bench.config
    return bench.stamp(
        what="supernet",
        data=bench.fingerprint(bench.task.views["train"]),
        space=space_of(config),
        budget=config.budget.model_dump(mode="json"),
        supernet=config.supernet.model_dump(mode="json"),
        seed=config.seed,
    )


def load_supernet(bench: Workbench) -> Supernet:
    """The trained supernet of a run.

    Raises:
        RunError: When it is not there, is of other settings, or its training is not done.
    """
    supernet = make_supernet(bench)
    found = load_checkpoint(bench.files.file(FILE), supernet.tuning, None, stamp_of(bench))
    if found is None or found.epochs < bench.config.supernet.epochs:
        raise RunError(f"{bench.config.folder / FILE} must hold a trained supernet; repeat petlas search to train it")
    return supernet


@lru_cache(maxsize=SERVED)
def shared_supernet(bench: Workbench) -> Supernet:
    """The trained supernet of a run, read once in a process."""
    return load_supernet(bench)
