"""Train one design on one task, epoch by epoch."""

from __future__ import annotations

import copy
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from petlas.datasets import Task, open_store, open_task
from petlas.petl.backbone import InputConfig, input_config, load_backbone, reset_head
from petlas.petl.design import Design
from petlas.petl.tuning import apply, prepare, tuning_of
from petlas.search.checkpoint import Progress, Stamp, load_checkpoint, save_checkpoint
from petlas.search.config import RunConfig, TrainConfig

EVAL_BATCH = 256


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave: its number from 1, mean training loss, accuracy on the selection split, seconds so far."""

    epoch: int
    loss: float
    val: float
    seconds: float


class ImageBatches:
    """Decoded images (N, 3, S, S) uint8 and labels (N,), handed out as normalised batches on a device.

    Iterating gives all of them in order, `size` at a time.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, inputs: InputConfig, device: torch.device, size: int = EVAL_BATCH
    ) -> None:
        self._size = size
        with torch.no_grad():
            on_gpu = device.type == "cuda"
            self._images = torch.tensor(images, device=device) if on_gpu else _share(images)
        self._labels = torch.tensor(labels, dtype=torch.long, device=device)
        self._mean = torch.tensor(inputs.mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(inputs.std, device=device).view(1, 3, 1, 1) * 255

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in order."""
        return (self.batch(slice(start, start + self._size)) for start in range(0, len(self), self._size))

    def batch(self, pick: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) float, normalised as the backbone was pretrained, and labels (B,)."""
        return (self._images[pick].float() - self._mean) / self._std, self._labels[pick]


def _share(images: np.ndarray) -> Tensor:
    """A tensor on the memory of a read-only map: all trials of a node share its pages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable": nothing here writes
        return torch.from_numpy(images)


def open_run_task(config: RunConfig) -> Task:
    """The task of a run."""
    return open_task(config.task.name, root=config.task.root, seed=config.seed)


def load_split(
    config: RunConfig, task: Task, split: str, inputs: InputConfig, device: torch.device, size: int = EVAL_BATCH
) -> ImageBatches:
    """One split of a run's task, decoded once and shared; iterating it gives batches of `size`."""
    part = task.splits[split]
    images = open_store(part, inputs.size, interpolation=inputs.interpolation)
    return ImageBatches(images, part.labels, inputs, device, size)


@lru_cache(maxsize=1)
def _pristine(name: str, checkpoint: str | None, img_size: int | None, drop_path: float) -> VisionTransformer:
    return load_backbone(name, checkpoint, img_size=img_size, drop_path_rate=drop_path)


def fresh_backbone(config: RunConfig) -> VisionTransformer:
    """A copy of the run's backbone; its file is read once in a process."""
    backbone = config.backbone
    return copy.deepcopy(_pristine(backbone.name, backbone.checkpoint, backbone.img_size, config.train.drop_path))


def pick_device() -> torch.device:
    """A GPU if this process may use one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(train: TrainConfig, device: torch.device) -> torch.dtype | None:
    """bf16 where asked for, or where the hardware computes with it."""
    return torch.bfloat16 if train.amp == "bf16" or (train.amp == "auto" and _computes_bf16(device)) else None


def _computes_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 itself: most CPUs only emulate it, 20 times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 lacks it
    return device.type == "cpu" and any(able.get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


@contextmanager
def precision(device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """Compute in `autocast` where that is safe; None for the model's own type.

    Attention on a CPU is then left to plain products: the backward pass of the fused kernel takes bf16 so slowly that
    whole steps last 1.2 times as long.
    """
    plain = sdpa_kernel(SDPBackend.MATH) if autocast is not None and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, autocast, enabled=autocast is not None), plain:
        yield


class Learner(ABC):
    """Epochs of AdamW steps over what is tuned; an epoch depends on the state before it, the seed and its number only.

    Args:
        model: A backbone with a design.
        data: The images that are learned from.
        train: The settings.
        seed: Of the order of the images, dropout, and whatever else is drawn.
        checkpoint: Where every epoch is kept; a file of the same stamp that lies there is taken up.
        stamp: What the training is of.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageBatches,
        train: TrainConfig,
        seed: int,
        checkpoint: Path | None = None,
        stamp: Stamp = MappingProxyType({}),
    ) -> None:
        self.model, self.data, self.train, self.seed = model, data, train, seed
        self.device = next(model.parameters()).device
        self.autocast = autocast_dtype(train, self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimiser = make_optimiser(self.parameters, train)
        self._checkpoint, self._stamp = checkpoint, dict(stamp)
        found = load_checkpoint(checkpoint, tuning_of(model), self._optimiser, self._stamp) if checkpoint else None
        self.progress = found or Progress(0, math.nan)

    @abstractmethod
    def accumulate(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of one batch (B, 3, S, S) with labels (B,); its detached loss."""

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epochs >= self.train.epochs

    def train_epoch(self) -> None:
        """One epoch, unless all are done."""
        if self.finished:
            return
        done, steps = self.progress.epochs, math.ceil(len(self.data) / self.train.batch_size)
        self.rng = np.random.default_rng([self.seed, done])
        torch.manual_seed(int(self.rng.integers(2**63)))
        self.model.train()
        total = torch.zeros((), device=self.device)
        for step, pick in enumerate(torch.randperm(len(self.data)).split(self.train.batch_size), start=done * steps):
            self._optimiser.zero_grad()
            total += self.accumulate(*self.data.batch(pick)) * len(pick)
            if self.train.clip_grad is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.train.clip_grad)
            for group in self._optimiser.param_groups:
                group["lr"] = self.train.lr * lr_factor(step, self.train, steps)
            self._optimiser.step()
        self.progress = Progress(done + 1, total.item() / len(self.data))
        if self._checkpoint and math.isfinite(self.progress.loss):
            save_checkpoint(self._checkpoint, tuning_of(self.model), self._optimiser, self.progress, self._stamp)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) in float, computed in the precision of the settings."""
        with precision(self.device, self.autocast):
            logits: Tensor = self.model(images)
        return logits.float()


class Work(Protocol):
    """What a worker does for one trial, epoch by epoch."""

    @property
    def finished(self) -> bool:
        """Whether no further epoch is to come."""

    def epoch(self) -> EpochResult:
        """The next epoch."""


class TrainingRun(Learner):
    """One design in training. The same seed gives the same numbers, in any process with as many threads.

    Args:
        config: The run's configuration.
        design: What is inserted into the backbone.
        seed: Of the initialisation, the order of the images, and dropout.
        train_split: The split that is learned from.
        val_split: The split that `epoch` measures on; None for no measurement (NaN).
        initial: Tuned values to start from, head included, as `tuned_state_dict` names them.
        checkpoints: The folder where the training is kept, to be taken up again; None for nowhere.
    """

    def __init__(
        self,
        config: RunConfig,
        design: Design,
        seed: int,
        train_split: str = "train",
        val_split: str | None = "val",
        initial: Mapping[str, Tensor] | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self._start = time.perf_counter()
        self.config = config
        task, model = open_run_task(config), fresh_backbone(config)
        torch.manual_seed(seed)  # only here: reading the backbone for the first time draws random numbers
        reset_head(model, task.num_classes)
        apply(model, design).to(pick_device())
        self.inputs, device = input_config(model), pick_device()
        data = load_split(config, task, train_split, self.inputs, device, config.train.batch_size)
        if initial is None:
            prepare(model, data)
        else:
            tuning_of(model).load_state_dict(dict(initial))  # with the entries and channels that were chosen for it
        stamp: Stamp = {"design": design.key, "seed": seed, "split": train_split, "inherited": initial is not None}
        file = checkpoints / f"{design.key}-{train_split}-{seed}.safetensors" if checkpoints else None
        super().__init__(model, data, config.train, seed, file, stamp)
        self.val_data = load_split(config, task, val_split, self.inputs, device) if val_split else None

    def epoch(self) -> EpochResult:
        """Train for one epoch and measure; a loss that is not finite gives a NaN accuracy and ends the run."""
        self.train_epoch()
        val = math.nan
        if self.val_data is not None and math.isfinite(self.progress.loss):
            val = evaluate(self.model, self.val_data, self.autocast)
        return EpochResult(*self.progress, val, time.perf_counter() - self._start)

    def accumulate(self, images: Tensor, labels: Tensor) -> Tensor:
        """The gradients of the cross entropy."""
        loss = F.cross_entropy(self.forward(images), labels, label_smoothing=self.train.label_smoothing)
        loss.backward()
        return loss.detach()

    def test(self) -> float:
        """Accuracy on the locked test split, in full precision, as the result is used by whoever loads it.

        Called once, after selection, when the training is over.
        """
        task = open_run_task(self.config)
        data = load_split(self.config, task, "test", self.inputs, self.device)
        return evaluate(self.model, data)


def make_optimiser(parameters: list[nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; vectors and scalars (biases, norms, scales) are not decayed."""
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=train.lr)


def lr_factor(step: int, train: TrainConfig, steps: int) -> float:
    """The share of the peak at a step, `steps` to an epoch: linear warm-up, then a cosine to 1%."""
    warmup, total = train.warmup_epochs * steps, train.epochs * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.inference_mode()
def evaluate(model: nn.Module, data: ImageBatches, autocast: torch.dtype | None = None) -> float:
    """Top-1 accuracy of a model on a split, in evaluation mode; NaN if an output is not finite."""
    model.eval()
    correct = 0
    for images, labels in data:
        with precision(images.device, autocast):
            logits = model(images)
        if not logits.isfinite().all():
            return math.nan
        correct += int((logits.argmax(dim=1) == labels).sum())
    return correct / len(data)
