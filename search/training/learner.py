"""Epochs of steps over what is tuned, of one candidate or of a supernet."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from petlas.petl import CompiledBlocks, tuning_of
from petlas.search.config import TrainConfig
from petlas.search.objectives import Objective
from petlas.search.run_files import File
from petlas.search.training.augment import AugmentedBatches, Mixed, Targets
from petlas.search.training.batches import Batches, Inputs, logits_of
from petlas.search.training.checkpoint import Progress, Stamp, load_checkpoint, save_checkpoint
from petlas.search.training.graphs import graphs_for
from petlas.search.training.numerics import autocast_dtype, deterministic, precision
from petlas.search.training.optimiser import LR_FACTOR, make_optimiser
from petlas.search.training.schedule import lr_factor


class Learner(ABC):
    """Epochs of AdamW steps over what is tuned; an epoch depends on the state before it, the seed and its number only.

    Args:
        model: A backbone with a design.
        data: The images that are learned from.
        objective: What is learned.
        train: The settings.
        seed: Of the order of the images, dropout, and whatever else is drawn.
        checkpoint: Where every epoch is kept; a file of the same stamp that lies there is taken up.
        stamp: Everything that determines the numbers.
        compiled: Compiles the model's blocks for its steps; None to run them as they are.
    """

    still: ClassVar[bool] = True
    """Whether each step computes the same, of other images."""

    def __init__(
        self,
        model: nn.Module,
        data: Batches | AugmentedBatches,
        objective: Objective,
        train: TrainConfig,
        seed: int,
        checkpoint: File | None = None,
        stamp: Stamp = MappingProxyType({}),
        compiled: CompiledBlocks | None = None,
    ) -> None:
        self.model, self.data, self.objective, self.train, self.seed = model, data, objective, train, seed
        self.device = next(model.parameters()).device
        self.autocast = autocast_dtype(train, self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = make_optimiser(model, train)
        self._checkpoint, self._stamp = checkpoint, dict(stamp)
        found = load_checkpoint(checkpoint, tuning_of(model), self.optimiser, self._stamp) if checkpoint else None
        self.progress = found or Progress(0, math.nan)
        self._compiled: AbstractContextManager[None] = nullcontext() if compiled is None else compiled.of(model)
        self._graphs = graphs_for([model], train, self.device) if self.still else None
        self._step = self._steps = 0
        self._total = torch.zeros((), device=self.device)

    @abstractmethod
    def accumulate(self, images: Inputs, targets: Targets) -> Tensor:
        """Add the gradients of one batch and give its detached loss.

        Args:
            images: (B, 3, S, S), or what stands in for them.
            targets: (B,) or (B, K), or mixed.
        """

    @property
    def diverged(self) -> bool:
        """Whether the last epoch's loss was not finite."""
        return self.progress.epochs > 0 and not math.isfinite(self.progress.loss)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none can be any more."""
        return self.progress.epochs >= self.train.epochs or self.diverged

    def train_epoch(self) -> None:
        """One epoch, unless all are done."""
        if self.finished:
            return
        with deterministic(self.train.deterministic):
            picks = self.begin_epoch()
            with self._compiled:
                for pick in picks:
                    self.update(self.learn(pick), pick)
        self.end_epoch()

    def begin_epoch(self) -> tuple[Tensor, ...]:
        """Draw what an epoch begins with; the images of each of its batches, (B,) each."""
        self.rng = np.random.default_rng([self.seed, self.progress.epochs])
        torch.manual_seed(int(self.rng.integers(2**63)))
        if not self.model.training:  # a walk through all modules
            self.model.train()
        self._total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self.data)).to(self.device)  # drawn on the CPU, so that it is the same everywhere
        picks: tuple[Tensor, ...] = order.split(self.train.batch_size)
        self._step, self._steps = self.progress.epochs * len(picks), len(picks)
        return picks

    def learn(self, pick: Tensor) -> Tensor:
        """The detached loss of a batch, whose gradients are there.

        Args:
            pick: Its images (B,).
        """
        return self._accumulated(pick) if self._graphs is None else self._graphs(self._accumulated, pick)

    def _accumulated(self, pick: Tensor) -> Tensor:
        return self.accumulate(*self.batch(pick))

    def batch(self, pick: Tensor) -> tuple[Inputs, Targets]:
        """What a step learns from; gradients of the step before are let go.

        Args:
            pick: The images of its batch (B,).
        """
        self.optimiser.zero_grad()
        return self.data.batch(pick)

    def update(self, loss: Tensor, pick: Tensor) -> None:
        """The optimiser's step, when the gradients of a batch are there.

        Args:
            loss: Of the batch, detached.
            pick: Its images (B,).
        """
        self.before_step(loss, pick)
        self.step()

    def before_step(self, loss: Tensor, pick: Tensor) -> None:
        """Count a batch, and set the rates of its step.

        Args:
            loss: Of the batch, detached.
            pick: Its images (B,).
        """
        self._total += loss * len(pick)
        for group in self.optimiser.param_groups:
            group["lr"] = self.train.lr * group[LR_FACTOR] * lr_factor(self._step, self.train, self._steps)
        self._step += 1

    def step(self) -> None:
        """The optimiser's step with the rates that are set."""
        if self.train.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.train.clip_grad)
        self.optimiser.step()

    def end_epoch(self) -> None:
        """Take note of an epoch, and keep it."""
        self.progress = Progress(self.progress.epochs + 1, self._total.item() / len(self.data))
        if self._checkpoint and not self.diverged:
            save_checkpoint(self._checkpoint, tuning_of(self.model), self.optimiser, self.progress, self._stamp)

    def loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """The objective's loss with the settings' smoothing; of mixed images that of both, by their shares.

        Args:
            logits: (B, K).
            targets: (B,) or (B, K), or mixed.
        """
        if isinstance(targets, Mixed):
            first, second = (self.loss(logits, part) for part in (targets.first, targets.second))
            return targets.share * first + (1 - targets.share) * second
        return self.objective.loss(logits, targets, self.train.label_smoothing)

    def gradients(self, images: Inputs, targets: Targets) -> Tensor:
        """Add the gradients of the loss of a batch, and give the loss, detached.

        Args:
            images: (B, 3, S, S), or what stands in for them.
            targets: (B,) or (B, K), or mixed.
        """
        loss = self.loss(self.forward(images), targets)
        loss.backward()
        return loss.detach()

    def forward(self, images: Inputs) -> Tensor:
        """Logits (B, K) in float, computed in the precision of the settings."""
        with precision(self.device, self.autocast):
            logits = logits_of(self.model, images)
        return logits.float()
