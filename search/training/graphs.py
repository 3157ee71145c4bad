"""Forward and backward passes as CUDA graphs: all kernels are launched at once, in place of one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from petlas.petl import Draws, gpu_generator
from petlas.search.config import TrainConfig

log = logging.getLogger("petlas")

Picks: TypeAlias = Tensor | Mapping[str, Tensor]
"""Which images a batch holds (B,), or the batch of each of several trainings."""

Loss = TypeVar("Loss", bound=Tensor | dict[str, Tensor])
"""One, or that of each of several trainings."""

_MOST = 4
"""Graphs that are kept: of a whole batch and of an epoch's last one, and of the members that a pack had before."""
_TOLERANCE = 1e-2
"""Of the norm: sums of bf16 in another order differ by less, and another random number by far more."""


class Recording(Protocol):
    """What is run once, to be run again with other numbers in the same tensors."""

    def record(self, action: Callable[[], Loss]) -> Loss:
        """Take down what an action does; its results are there after a replay."""

    def replay(self) -> None:
        """Do it again."""


class Recorder(Protocol):
    """Makes recordings."""

    def make(self) -> Recording:
        """An empty one."""

    def renew(self) -> None:
        """Go on after one that failed."""


class CudaGraph:
    """A recording of kernels.

    Args:
        device: Where they run.
        pool: The memory that graphs share.
        draws: Random numbers that are drawn on the way, besides the process's own.
    """

    def __init__(self, device: torch.device, pool: Any, draws: Iterable[Draws]) -> None:
        self._graph, self._pool, self._device = torch.cuda.CUDAGraph(), pool, device
        for own in draws:
            own.register(self._graph)

    def record(self, action: Callable[[], Loss]) -> Loss:
        """Take down what an action does; its results are there after a replay."""
        with torch.cuda.device(self._device), torch.cuda.graph(self._graph, self._pool, None, "thread_local"):
            return action()

    def replay(self) -> None:
        """Do it again."""
        self._graph.replay()


class CudaGraphs:
    """Makes recordings of kernels that share their memory.

    Args:
        device: Where they run.
        draws: Random numbers that are drawn on the way, besides the process's own.
    """

    def __init__(self, device: torch.device, draws: Sequence[Draws]) -> None:
        self._device, self._draws, self._pool = device, draws, torch.cuda.graph_pool_handle()

    def make(self) -> CudaGraph:
        """An empty one."""
        return CudaGraph(self._device, self._pool, self._draws)

    def renew(self) -> None:
        """Go on after one that failed, whose memory and generators stay marked as recording."""
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()
        if (shared := gpu_generator(self._device)) is not None:
            shared.graphsafe_set_state(shared.clone_state())
        for own in self._draws:
            own.renew()


class Graphs:
    """What computes gradients, from graphs where batches are alike.

    Where a model or its images are small, a GPU waits for the launches of kernels most of the time. The first batch of
    a shape is computed as it is. With the second one a graph is made, and what it gives is held against what is
    computed without: where the two differ, or anything in between waits for the GPU, draws on the CPU or fails, batches
    of that shape are computed as they are, and the log says why. Numbers are the same, random ones as well.

    Args:
        models: What is trained.
        draws: Random numbers that are drawn on the way, besides the process's own.
        recorder: Makes recordings.
    """

    def __init__(self, models: Iterable[nn.Module], draws: Sequence[Draws], recorder: Recorder) -> None:
        self._draws, self._recorder = draws, recorder
        trained = {id(p): p for model in models for p in model.parameters() if p.requires_grad}
        buffers = {id(b): b for model in models for b in model.buffers()}
        self._parameters, self._buffers = [*trained.values()], [*buffers.values()]
        self._seen = set[Hashable]()
        self._graphs: dict[Hashable, _Graph[Any] | None] = {}

    def __call__(self, compute: Callable[[Any], Loss], picks: Picks) -> Loss:
        """The losses of a batch; the gradients of what is trained are those of this batch alone.

        Args:
            compute: Adds the gradients of a batch to none, and gives its losses, detached; always the same one.
            picks: Which images the batch holds.
        """
        shapes = tuple((name, pick.shape) for name, pick in _named(picks))
        case = shapes, tuple(p.data_ptr() for p in self._parameters)  # packs move what their members train
        if case not in self._seen:
            self._seen.add(case)
            return compute(picks)
        if case not in self._graphs:
            self._graphs = dict(list(self._graphs.items())[1 - _MOST :])
            self._graphs[case] = graph = self._made(compute, picks)
            if graph is not None:
                return graph.losses
        graph = self._graphs[case]
        return compute(picks) if graph is None else graph(picks)

    def _made(self, compute: Callable[[Any], Loss], picks: Picks) -> _Graph[Loss] | None:
        """A graph for batches like this one, run once; None where there is none, or it does something else."""
        before, buffers = self._states(), [buffer.clone() for buffer in self._buffers]
        expected = [*_losses(compute(picks)), *self._gradients()]
        drawn = any(not torch.equal(old[0], new[0]) for old, new in zip(before, self._states(), strict=True))
        self._back(before, buffers)
        if drawn:
            _say("it draws random numbers on the CPU")
            return None
        try:
            graph = _Graph(compute, picks, self._parameters, self._recorder.make())
            found = [*_losses(graph(picks)), *self._gradients()]
        except Exception as error:  # what must not be in a graph fails in a way of its own; so does memory that is full
            self._recorder.renew()
            self._back(before, buffers)
            _say(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
            return None
        if not all(map(_alike, expected, found)):
            self._back(before, buffers)
            _say("a graph computes something else")
            return None
        return graph

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]

    def _states(self) -> list[list[Tensor]]:
        """Where random numbers stand: the process's own, and the others; on the CPU first."""
        gpu = [] if (shared := self._shared()) is None else [shared.get_state()]
        return [[torch.get_rng_state(), *gpu], *(own.states for own in self._draws)]

    @torch.no_grad()
    def _back(self, states: list[list[Tensor]], buffers: Sequence[Tensor]) -> None:
        """Have everything as it was before a batch."""
        (cpu, *gpu), *others = states
        torch.set_rng_state(cpu)
        if (shared := self._shared()) is not None:
            shared.set_state(*gpu)
        for own, state in zip(self._draws, others, strict=True):
            own.states = state
        for buffer, old in zip(self._buffers, buffers, strict=True):
            if not torch.equal(buffer, old):  # whoever looks whether it was written to finds that it was not
                buffer.copy_(old)
        for parameter in self._parameters:
            parameter.grad = None

    def _shared(self) -> torch.Generator | None:
        return gpu_generator(self._parameters[0].device)


class _Graph(Generic[Loss]):
    """A recording of the gradients of one batch, for others of the same shape.

    Args:
        compute: What gives them.
        picks: What it is given.
        parameters: Those that are trained.
        recording: An empty one.
    """

    def __init__(
        self, compute: Callable[[Any], Loss], picks: Picks, parameters: Sequence[Tensor], recording: Recording
    ) -> None:
        self._parameters, self._recording = parameters, recording
        self._own = {name: pick.clone() for name, pick in _named(picks)}
        given = self._own[""] if isinstance(picks, Tensor) else self._own
        self.losses = recording.record(lambda: compute(given))
        self._gradients = [p.grad for p in parameters]

    def __call__(self, picks: Picks) -> Loss:
        """The losses of a batch; its gradients are those of the parameters, until the next one."""
        for name, pick in _named(picks):
            self._own[name].copy_(pick)
        self._recording.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self.losses


def graphs_for(
    models: Iterable[nn.Module], train: TrainConfig, device: torch.device, draws: Sequence[Draws] = ()
) -> Graphs | None:
    """What computes gradients from CUDA graphs; None where there is no GPU, or the settings say no.

    Args:
        models: What is trained.
        train: The settings, of which `cuda_graphs` decides.
        device: Where the models are.
        draws: Random numbers that are drawn on the way, besides the process's own.
    """
    if train.cuda_graphs == "off" or device.type != "cuda":
        return None
    return Graphs(models, draws, CudaGraphs(device, draws))


@cache
def _say(reason: str) -> None:
    """Once in a process, as it holds for one trial after the other."""
    log.warning("no CUDA graph: %s", reason)


def _named(picks: Picks) -> Iterable[tuple[str, Tensor]]:
    return [("", picks)] if isinstance(picks, Tensor) else picks.items()


def _losses(losses: Tensor | dict[str, Tensor]) -> Iterable[Tensor]:
    return [losses] if isinstance(losses, Tensor) else losses.values()


def _alike(some: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for the order in which sums are added up."""
    return bool((some.float() - other.float()).norm() <= _TOLERANCE * some.float().norm() + 1e-12)
