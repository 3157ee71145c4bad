"""What executes the work of stages: Ray Tune, or this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING

from petlas.lazy import look_up
from petlas.search.runners.place import on_cluster
from petlas.search.runners.share import gpus_here

if TYPE_CHECKING:
    from petlas.search.config import RunConfig
    from petlas.search.runners.ray.start import Start
    from petlas.search.stages.rounds import Runner
    from petlas.search.workbench import Workbench

RUNNERS: dict[str, str] = {
    "inline": "petlas.search.runners.inline:opened",
    "ray": "petlas.search.runners.ray.runner:opened",
}

TRACKERS: dict[str, str] = {
    "tensorboard": "petlas.search.runners.ray.trackers:TensorBoard",
    "wandb": "petlas.search.runners.ray.trackers:WeightsAndBiases",
    "mlflow": "petlas.search.runners.ray.trackers:MLflow",
}
"""What `search.trackers` may name. The extra that installs what it needs has the same name."""


def starting(configs: Sequence[RunConfig]) -> AbstractContextManager[Start | None]:
    """Let Ray start in the background where new runs are to be searched with one of their own, in a `with` block.

    What it gives is for `open_runner`. A run that has a folder may have nothing left to do.

    Args:
        configs: Of the runs.
    """
    where = {choose_runner(config) for config in configs}
    if where != {"ray"} or any(map(on_cluster, configs)) or any(config.folder.exists() for config in configs):
        return nullcontext()
    from petlas.search.runners.ray.start import Start

    return Start()


def open_runner(
    benches: Sequence[Workbench],
    start: Start | None = None,
    views: Sequence[str] = ("trainval",),
    jobs: int | None = None,
) -> AbstractContextManager[Runner]:
    """The runner of runs that are searched together, to be used in a `with` block.

    Args:
        benches: Of the runs.
        start: Of Ray, if it has begun.
        views: Of `trainval` and `test`, those whose images the work reads.
        jobs: How many pieces of work there are at most; None for a search, whose trials may be trained at once.

    Raises:
        RunError: When there is no room for a single trial, or for what it reads.
    """
    names = {choose_runner(bench.config, jobs) for bench in benches}
    name = "ray" if "ray" in names else "inline"
    runner: AbstractContextManager[Runner] = look_up(RUNNERS[name])(benches, start, views, packs=jobs is None)
    return runner


def check_together(configs: Sequence[RunConfig]) -> None:
    """Refuse to search runs together that are to be done in different places.

    Raises:
        RunError: Naming the setting.
    """
    from petlas.search.run_folder import RunError

    for key in ("runner", "address", "concurrent", "data", "pack"):
        values = {getattr(config.resources, key): config.name for config in configs}
        if len(values) > 1:
            told = ", ".join(f"{value!r} of {name}" for value, name in values.items())
            raise RunError(
                f"resources.{key} must be the same for runs that are searched together, got {told}; "
                f"set resources.{key}=VALUE for all, or search them one by one"
            )


def check_trackers(config: RunConfig) -> None:
    """Refuse trackers whose package is missing, or that the run's runner cannot serve.

    Raises:
        RunError: Naming the tracker, and what to do.
    """
    from petlas.search.run_folder import RunError

    for name in config.search.trackers:
        tracker = look_up(TRACKERS[name])
        if find_spec(tracker.package) is None:
            raise RunError(
                f"search.trackers has {name}, and the package {tracker.package} is not installed; "
                f"pip install 'petlas[{name}]', or leave it out"
            )
        if tracker.needs_ray and choose_runner(config) != "ray":
            raise RunError(
                f"search.trackers has {name}, which Ray serves in processes of its own, and trials are done in "
                f"this one; set resources.runner=ray, or leave {name} out"
            )


def check_address(config: RunConfig) -> None:
    """Let it be told before anything is read that no cluster answers where one should.

    Raises:
        RunError: Naming the address.
    """
    from petlas.search.runners.knock import check_address

    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address and choose_runner(config) == "ray":
        check_address(address)


def choose_runner(config: RunConfig, jobs: int | None = None) -> str:
    """The name of the run's runner; `auto` takes Ray where there is a cluster, or room for two trials at once.

    Packs are trained in this process unless Ray is asked for; a tracker may need Ray.

    Args:
        config: The run's configuration.
        jobs: How many pieces of work there are at most; None for many.
    """
    resources = config.resources
    if resources.runner != "auto":
        return resources.runner
    if on_cluster(config):
        return "ray"
    if resources.pack not in (1, "auto"):
        return "inline"
    if jobs is not None and jobs < 2:
        return "inline"
    if any(look_up(TRACKERS[name]).needs_ray for name in config.search.trackers):
        return "ray"
    return "ray" if min(rooms(config), resources.concurrent or rooms(config)) > 1 else "inline"


def rooms(config: RunConfig) -> int:
    """How many trials this machine has room for at once."""
    resources = config.resources
    room, gpus = (os.cpu_count() or 1) // resources.cpus, gpus_here(resources)
    if not gpus:
        return room
    import torch

    return min(room, int(torch.cuda.device_count() / gpus))


def check_resources(config: RunConfig) -> None:
    """Refuse a run that this machine has no room for; a cluster is asked when it is there.

    Raises:
        RunError: Naming what a trial needs and what there is.
    """
    from petlas.search.run_folder import RunError

    if on_cluster(config) or rooms(config) >= 1:
        return
    import torch

    needs = f"{config.resources.cpus} CPUs and {gpus_here(config.resources):g} GPUs"
    has = f"{os.cpu_count()} CPUs and {torch.cuda.device_count()} GPUs"
    raise RunError(f"a trial needs {needs}, and this machine has {has}; lower resources.cpus or resources.gpus")


__all__ = [
    "RUNNERS",
    "TRACKERS",
    "check_address",
    "check_resources",
    "check_together",
    "check_trackers",
    "choose_runner",
    "on_cluster",
    "open_runner",
    "rooms",
    "starting",
]
