"""How much of a GPU a trial is given: what the run says, or what its largest design was measured to need."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from petlas.search.config import ResourcesConfig

_MOST = 16
"""Processes that share one GPU: each holds a context, and more only take turns."""

_USED = 0.9
"""Of a GPU's memory; the rest is for what grows on the way."""

_STEPS = 10_000
"""Ray counts shares in ten-thousandths."""


@dataclass(frozen=True)
class Footprint:
    """The memory of a GPU that a process takes which trains a run's largest design.

    Args:
        needed: Bytes, with the process's own.
        total: Bytes that the GPU has.
    """

    needed: int
    total: int

    def __str__(self) -> str:
        """For the log."""
        return f"{self.needed / 1e9:.1f} of {self.total / 1e9:.1f} GB"


def has_gpu() -> bool:
    """Whether this machine has a GPU that this process may use, told without torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def gpus_here(resources: ResourcesConfig) -> float:
    """How many GPUs a trial is given on this machine; before anything is measured, a whole one where there is one."""
    return float(has_gpu()) if resources.gpus is None else resources.gpus


def share_of(footprint: Footprint | None, trials: float) -> float:
    """The share of a GPU for each of the trials that its memory has room for.

    Args:
        footprint: What one of them needs; None where that is not known, and each has a GPU to itself.
        trials: How many there are CPUs for, to each GPU.
    """
    if footprint is None:
        return 1.0
    fits = int(_USED * footprint.total / max(1, footprint.needed))
    return int(_STEPS / max(1, min(fits, int(trials), _MOST))) / _STEPS
