"""What executes the work of stages: Ray Tune, or this process."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from petlas.search.config import RunConfig
    from petlas.search.stages.base import Runner

RUNNERS: dict[str, str] = {
    "inline": "petlas.search.runners.inline:opened",
    "ray": "petlas.search.runners.ray:opened",
}


def open_runner(config: RunConfig) -> AbstractContextManager[Runner]:
    """The run's runner, to be used in a `with` block.

    Raises:
        RunError: When there is no room for a single trial.
    """
    runner: AbstractContextManager[Runner] = look_up(RUNNERS[choose_runner(config)])(config)
    return runner


def choose_runner(config: RunConfig) -> str:
    """The name of the run's runner; `auto` takes Ray where there is a cluster, or room for two trials at once."""
    resources = config.resources
    if resources.runner != "auto":
        return resources.runner
    if resources.address or os.environ.get("RAY_ADDRESS"):
        return "ray"
    return "ray" if min(rooms(config), resources.concurrent or rooms(config)) > 1 else "inline"


def rooms(config: RunConfig) -> int:
    """How many trials this machine has room for at once."""
    resources = config.resources
    room = (os.cpu_count() or 1) // resources.cpus
    if not resources.gpus:
        return room
    import torch

    return min(room, int(torch.cuda.device_count() / resources.gpus))


def check_resources(config: RunConfig) -> None:
    """Refuse a run that this machine has no room for; a cluster is asked when it is there.

    Raises:
        RunError: Naming what a trial needs and what there is.
    """
    from petlas.search.run_folder import RunError

    if config.resources.address or os.environ.get("RAY_ADDRESS") or rooms(config) >= 1:
        return
    import torch

    needs = f"{config.resources.cpus} CPUs and {config.resources.gpus:g} GPUs"
    has = f"{os.cpu_count()} CPUs and {torch.cuda.device_count()} GPUs"
    raise RunError(f"a trial needs {needs}, and this machine has {has}; lower resources.cpus or resources.gpus")


__all__ = ["RUNNERS", "check_resources", "choose_runner", "open_runner", "rooms"]
