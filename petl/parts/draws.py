"""Random numbers of one's own, in place of the process's."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """A stream of random numbers: what is drawn in its `with` block comes from it, and the process's own stays still.

    It begins where the process's own stands.

    Args:
        device: Where is drawn, besides the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[index])
        self.states = self._drawn()
        """Where it stands, outside of its block; set it to go on from there."""
        self._outside: list[Tensor] = []

    def __enter__(self) -> None:
        """Draw from here."""
        self._outside = self._drawn()
        self._set(self.states)

    def __exit__(self, *error: object) -> None:
        """Draw from where it was drawn before."""
        self.states = self._drawn()
        self._set(self._outside)

    def _drawn(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _set(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
