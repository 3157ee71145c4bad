"""Random numbers of one's own, in place of the process's."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """A stream of random numbers: what is drawn in its `with` block comes from it, and the process's own stays still.

    It begins where the process's own stands. On a GPU nothing is copied: torch's generator is handed another state, so
    that what is drawn in the block can be part of a CUDA graph that knows of it (see `register`).

    Args:
        device: Where is drawn, besides the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._cpu, self._outside = torch.default_generator.get_state(), torch.default_generator.get_state()
        self._shared = gpu_generator(device)
        self._gpu = None if self._shared is None else self._shared.clone_state()
        self._before: torch.Generator | None = None

    @property
    def states(self) -> list[Tensor]:
        """Where it stands, outside of its block, first on the CPU; set it to go on from there."""
        return [self._cpu] if self._gpu is None else [self._cpu, self._gpu.get_state()]

    @states.setter
    def states(self, states: list[Tensor]) -> None:
        self._cpu, *gpu = states
        if self._gpu is not None:
            self._gpu.set_state(*gpu)

    def __enter__(self) -> None:
        """Draw from here."""
        self._outside = torch.default_generator.get_state()
        torch.default_generator.set_state(self._cpu)
        if self._shared is not None and self._gpu is not None:
            self._before = self._shared.graphsafe_get_state()
            self._shared.graphsafe_set_state(self._gpu)

    def __exit__(self, *error: object) -> None:
        """Draw from where it was drawn before."""
        self._cpu = torch.default_generator.get_state()
        torch.default_generator.set_state(self._outside)
        if self._shared is not None and self._before is not None:
            self._shared.graphsafe_set_state(self._before)

    def register(self, graph: torch.cuda.CUDAGraph) -> None:
        """Have a CUDA graph draw from here anew each time, where it was recorded in the block.

        Args:
            graph: Nothing is recorded yet.
        """
        if self._gpu is not None:
            graph.register_generator_state(self._gpu)

    def renew(self) -> None:
        """Stand at the same place after a recording that failed, which leaves generators unusable."""
        if self._gpu is not None:
            self._gpu = self._gpu.clone_state()


def gpu_generator(device: torch.device) -> torch.Generator | None:
    """The process's own generator on a device; None for a CPU.

    Args:
        device: Where is drawn.
    """
    if device.type != "cuda":
        return None
    torch.cuda.init()
    index = torch.cuda.current_device() if device.index is None else device.index
    generator: torch.Generator = torch.cuda.default_generators[index]
    return generator
