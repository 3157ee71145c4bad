"""What an action costs: time beside other actions, operations, passes over the tokens, memory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, pstdev
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Action = Callable[[], object]

NO_WORK = {
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "lift_fresh",
}
"""Operations that move no data, beside views."""


@dataclass(frozen=True)
class Times:
    """Seconds of an action, and what it takes beside another one.

    Args:
        seconds: The median over the rounds.
        ratio: The median over the rounds of its seconds over those of the base in the same round.
        error: The standard error of that median.
        rounds: How often it was measured.
    """

    seconds: float
    ratio: float
    error: float
    rounds: int


class Clock:
    """Seconds that this process computes: of the wall on a GPU, of all its threads on a CPU, which others share.

    Args:
        device: Where is computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._wait = torch.cuda.synchronize if device.type == "cuda" else None

    def __call__(self) -> float:
        """Now, all that was asked for being done."""
        if self._wait is None:
            return time.process_time()
        self._wait()
        return time.perf_counter()


def interleaved(
    actions: Mapping[str, Action], base: str, device: torch.device, seconds: float, least: int = 2
) -> dict[str, Times]:
    """Run actions in turn, in a new order in each round, after one round of warm-up.

    Args:
        actions: What is run, by name.
        base: The one that the others are compared with.
        device: Where is computed.
        seconds: No round begins after so many.
        least: But so many rounds are measured in any case.
    """
    clock, order, start = Clock(device), random.Random(0), time.monotonic()
    taken: dict[str, list[float]] = {name: [] for name in actions}
    while len(taken[base]) <= least or time.monotonic() - start < seconds:
        for name, action in order.sample(list(actions.items()), len(actions)):
            begin = clock()
            action()
            taken[name].append(clock() - begin)
    return {name: _beside(times[1:], taken[base][1:]) for name, times in taken.items()}


def _beside(times: list[float], base: list[float]) -> Times:
    ratios = [mine / other for mine, other in zip(times, base, strict=True)]
    error = 1.25 * pstdev(ratios) / len(ratios) ** 0.5  # of a median: a quarter more than of a mean
    return Times(median(times), median(ratios), error, len(ratios))


class _Work(TorchDispatchMode):
    """Counts operations that read or write data, and the bytes of those tensors that are as large as the tokens.

    Args:
        large: Numbers in the tokens.
        weights: Numbers in each weight: what is as large as one of them is taken for one.
    """

    def __init__(self, large: int, weights: set[int]) -> None:
        super().__init__()
        self.large, self.weights, self.operations, self.moved = large, weights, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in NO_WORK:
            self.operations += 1
            touched = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            large = [t for t in touched if t.numel() >= self.large and t.numel() not in self.weights]
            self.moved += sum(t.numel() * t.element_size() for t in large)
        return result


def work_of(action: Action, tokens: Tensor, weights: set[int]) -> tuple[int, float]:
    """Operations of an action, and how often it reads or writes as much as the tokens (B, N, D), smaller things apart.

    An operation is a call of torch's dispatcher that moves data: one kernel, as a rule.

    Args:
        action: What is run.
        tokens: Of the shape and type of what a block hands on.
        weights: Numbers in each weight.
    """
    with _Work(tokens.numel(), weights) as counted:
        action()
    return counted.operations, counted.moved / (tokens.numel() * tokens.element_size())


def saved_bytes(forward: Action, apart: set[int]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once.

    Args:
        forward: The forward pass.
        apart: Addresses of storages that do not count, such as those of parameters.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # held, so that no address is used again
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # held until all has been counted
    total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in apart)
    del result
    return total


def peak_bytes(action: Action, device: torch.device) -> int | None:
    """The most that a GPU has allocated during an action, and None for a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    action()
    return int(torch.cuda.max_memory_allocated())
