"""Train the supernet of a run's space, and read what it learned."""

from __future__ import annotations

import math
import time
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.petl.backbone import input_config, reset_head, shape_by_name
from petlas.petl.design import Design
from petlas.petl.supernet import Supernet
from petlas.petl.tuning import count_params, prepare
from petlas.search.checkpoint import load_checkpoint
from petlas.search.config import RunConfig, TrainConfig, space_of
from petlas.search.run_folder import RunError
from petlas.search.training import (
    EpochResult,
    Learner,
    fresh_backbone,
    load_split,
    open_run_task,
    pick_device,
)
from petlas.spaces import Budget, Space

_STAMP = {"what": "supernet"}


def space_and_budget(config: RunConfig) -> tuple[Space, Budget]:
    """The run's space for its backbone, and the hard budget."""
    shape = shape_by_name(config.backbone.name, config.backbone.img_size)
    space = Space.from_dict(space_of(config), shape.depth, backbone=shape.name)
    return space, Budget(config.budget.params, lru_cache(maxsize=4096)(lambda design: count_params(design, shape)))


class SupernetRun(Learner):
    """The supernet in training: random designs of the space share its weights.

    Single-path (Guo et al., 2020; NOAH): one random design in each step. Sandwich (Yu et al., 2019 and 2020): the
    largest, the smallest and some random ones in each step; all but the largest learn from its outputs.

    Args:
        config: The run's configuration; its folder keeps `supernet.safetensors`.
    """

    def __init__(self, config: RunConfig) -> None:
        self._start = time.perf_counter()
        self.settings = config.supernet
        self.space, self.budget = space_and_budget(config)
        task = open_run_task(config)
        self.supernet = make_supernet(config, self.space, task.num_classes)
        model, train = self.supernet.model, supernet_training(config)
        data = load_split(config, task, "train", input_config(model), pick_device(), train.batch_size)
        prepare(model, data)
        super().__init__(model, data, train, config.seed, config.folder / "supernet.safetensors", _STAMP)

    def epoch(self) -> EpochResult:
        """Train for one epoch; nothing is measured.

        Raises:
            RunError: When the loss is not finite.
        """
        self.train_epoch()
        if not math.isfinite(self.progress.loss):
            raise RunError(f"the supernet diverged in epoch {self.progress.epochs}; lower supernet.lr")
        return EpochResult(*self.progress, math.nan, time.perf_counter() - self._start)

    def accumulate(self, images: Tensor, labels: Tensor) -> Tensor:
        """The gradients of one step's designs."""
        if self.settings.sampling == "single":
            return self._learn(self.draw(), images, labels)
        self.supernet.activate(self.space.largest)
        logits = self.forward(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.train.label_smoothing)
        loss.backward()
        taught = logits.detach().softmax(dim=1)
        for design in (self.space.smallest, *(self.draw() for _ in range(self.settings.random))):
            self._learn(design, images, taught)
        return loss.detach()

    def _learn(self, design: Design, images: Tensor, target: Tensor) -> Tensor:
        """Gradients of one design against labels (B,), or the largest design's probabilities (B, C)."""
        self.supernet.activate(design)
        smoothing = self.train.label_smoothing if target.ndim == 1 else 0.0
        loss = F.cross_entropy(self.forward(images), target, label_smoothing=smoothing)
        loss.backward()
        return loss.detach()

    def draw(self) -> Design:
        """A random design within the budget: evenly over designs, or over parameter counts."""
        if self.settings.draw == "designs":
            return self.space.sample(self.rng, self.budget)
        return self.space.sample_by_cost(self.rng, self.budget)


def make_supernet(config: RunConfig, space: Space, classes: int) -> Supernet:
    """A supernet before training."""
    model = fresh_backbone(config)
    torch.manual_seed(config.seed)
    reset_head(model, classes)
    supernet = Supernet(model, space.largest, config.supernet.balanced)
    model.to(pick_device())
    return supernet


def supernet_training(config: RunConfig) -> TrainConfig:
    """The settings of the supernet's training: those of `train` with what `supernet` sets."""
    own = config.supernet
    changed = {"epochs": own.epochs, "lr": own.lr, "warmup_epochs": own.warmup_epochs}
    return config.train.model_copy(update=changed)


def load_supernet(config: RunConfig) -> Supernet:
    """The trained supernet of a run.

    Raises:
        RunError: When it is not there, or its training is not done.
    """
    space, _ = space_and_budget(config)
    supernet = make_supernet(config, space, open_run_task(config).num_classes)
    path = config.folder / "supernet.safetensors"
    found = load_checkpoint(path, supernet.tuning, None, _STAMP)
    if found is None or found.epochs < config.supernet.epochs:
        raise RunError(f"{path} must hold a trained supernet; repeat petlas search to train it")
    return supernet


@lru_cache(maxsize=1)
def shared_supernet(config: str) -> Supernet:
    """The trained supernet of a run, read once in a process; `config` is its JSON."""
    return load_supernet(RunConfig.model_validate_json(config))
