"""Training steps of designs, measured on the device and in the precision of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import petlas
from petlas.datasets import Task
from petlas.petl import (
    BackboneShape,
    Design,
    Streams,
    apply,
    input_config,
    load_backbone,
    prefix_of,
    remove,
    reset_head,
    run_prefix,
)
from petlas.search.config import RunConfig
from petlas.search.objectives import Objective
from petlas.search.training.batches import Inputs
from petlas.search.training.numerics import precision
from petlas.search.training.repeated import RepeatedStep
from petlas.spaces import Space

_LONG = 0.1  # seconds: on a CPU a step is measured with as many images as take about as long
_REPEATS = 2
_ROUNDS = 3


@dataclass(frozen=True)
class StepCost:
    """What a training step costs, for each image of its batch.

    Args:
        flops: Operations of products and convolutions, forward and backward.
        seconds: Time.
        bytes: Kept from the forward pass for the backward pass.
    """

    flops: float
    seconds: float
    bytes: float


class Setting(Protocol):
    """What determines a step: a workbench has it."""

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""

    @property
    def task(self) -> Task:
        """What is learned."""

    @property
    def objective(self) -> Objective:
        """What the task's kind asks for."""

    @property
    def shape(self) -> BackboneShape:
        """The backbone's sizes."""

    @property
    def space(self) -> Space:
        """The candidates that may be chosen."""

    @property
    def device(self) -> torch.device:
        """Where models are."""

    @property
    def autocast(self) -> torch.dtype | None:
        """The precision."""

    def cost(self, design: Design) -> int:
        """The trainable parameters of a design."""


class TimedSteps:
    """Steps as trials make them: of a backbone with random weights, on random images.

    Args:
        bench: The run's workbench.
    """

    def __init__(self, bench: Setting) -> None:
        self._bench = bench
        self.config = config = bench.config
        """The run's."""
        self.kept = config.resources.cache_gb > 0 and not config.train.augments
        """Whether what the blocks below the lowest placement compute is kept."""
        self._model: nn.Module | None = None

    def stamp(self) -> dict[str, Any]:
        """What determines the costs, as plain data."""
        bench, config = self._bench, self._bench.config
        cuda = bench.device.type == "cuda"
        return {
            "version": petlas.__version__,
            "backbone": bench.shape.name,
            "grid": list(bench.shape.grid),
            "space": bench.space.largest.to_dict(),
            "device": torch.cuda.get_device_name(bench.device) if cuda else bench.device.type,
            "cpus": config.resources.cpus,
            "autocast": str(bench.autocast),
            "batch": config.train.batch_size,
            "drop_path": config.train.drop_path,
            "kept": self.kept,
        }

    def measure(self, design: Design) -> StepCost:
        """What a step of a design costs.

        Args:
            design: Of the backbone.

        Raises:
            DesignError: When the design cannot be inserted into the backbone.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self._bench.config.resources.cpus)
        model = self._backbone()
        apply(model, design).to(self._bench.device).train()
        try:
            return self._measured(model)
        finally:
            remove(model)
            torch.set_num_threads(threads)

    def measure_all(self, designs: Iterable[Design]) -> list[StepCost]:
        """What steps of designs cost, each measured in several rounds, of which the quickest counts.

        Others that are at work for a while make some rounds slow, and so all designs alike.

        Args:
            designs: Of the backbone.

        Raises:
            DesignError: When one cannot be inserted into the backbone.
        """
        wanted = list(designs)
        rounds = [[self.measure(design) for design in wanted] for _ in range(_ROUNDS)]
        return [min(costs, key=lambda cost: cost.seconds) for costs in zip(*rounds, strict=True)]

    def _backbone(self) -> nn.Module:
        if self._model is None:
            config, objective = self._bench.config, self._bench.objective
            own, drop_path = config.backbone, config.train.drop_path
            self._model = load_backbone(own.name, pretrained=False, img_size=own.img_size, drop_path_rate=drop_path)
            reset_head(self._model, objective.outputs(self._bench.task.num_classes))
            for scale in self._bench.shape.scales:  # drawn at random they are so small that gradients are denormal
                nn.init.ones_(self._model.get_parameter(scale.path))
            self._model.to(self._bench.device)
        return self._model

    def _measured(self, model: nn.Module) -> StepCost:
        config, device = self._bench.config, self._bench.device
        one = self._step(model, 1)
        # Attention in plain products: the counter does not know the fused kernels of every CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            one()
        count = config.train.batch_size
        if device.type != "cuda":
            count = max(2, min(count, int(_LONG / self._seconds(one, repeats=1))))
        step, kept = self._step(model, count), _Kept(model)
        with saved_tensors_hooks(kept.see, _itself):
            step.loss()
        return StepCost(counter.get_total_flops(), self._seconds(step) / count, kept.bytes / count)

    def _step(self, model: nn.Module, count: int) -> RepeatedStep:
        """A training step on so many images."""
        bench, device = self._bench, self._bench.device
        size = input_config(model).size
        images = torch.randn(count, 3, size, size, device=device)
        labels = torch.tensor(bench.task.views["train"].targets[:1], device=device)
        targets = labels.repeat(count, *[1] * (labels.ndim - 1))
        prefix = prefix_of(model) if self.kept else None
        inputs: Inputs = images
        if prefix:
            with precision(device, bench.autocast):
                inputs = Streams(prefix, run_prefix(model, images, prefix), (size, size))
        return RepeatedStep(model, inputs, targets, bench.objective, bench.config.train, bench.autocast)

    def _seconds(self, step: Callable[[], None], repeats: int = _REPEATS) -> float:
        """The quickest of some steps after one of warm-up."""
        device, times = self._bench.device, []
        # The processor's own time, where it is that of the clock on a quiet machine: others may be at work.
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        for _ in range(repeats + 1):
            start = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(clock() - start)
        return max(min(times[1:]), 1e-9)


class _Kept:
    """Counts the bytes that a forward pass keeps for the backward pass, each once, and not those of parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._alive: list[Tensor] = []  # or another tensor could get the place of one that was counted

    def see(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


def _itself(tensor: Tensor) -> Tensor:
    return tensor
