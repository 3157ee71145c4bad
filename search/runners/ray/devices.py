"""What a cluster's nodes have, and how much of it a trial is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
import torch

from petlas.search.config import ResourcesConfig, RunConfig
from petlas.search.runners.ray.supplier import Supplier, enter
from petlas.search.runners.share import Footprint, share_of
from petlas.search.stages.footprint import measure_footprint
from petlas.search.stages.packing import measured_pack
from petlas.search.workbench import Workbench, shared_workbench

log = logging.getLogger("petlas")

_PATIENCE = 300.0
"""Seconds in which a worker measures what it is to, its start included."""


def nodes() -> list[Mapping[str, float]]:
    """What each node has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(resources: ResourcesConfig) -> int:
    """How many trials of a run the nodes have room for: a trial is on one node, and a share is of one GPU.

    Args:
        resources: What each is given.
    """
    return sum(_room_on(node, resources) for node in nodes())


def share(resources: ResourcesConfig) -> dict[str, float]:
    """What a trial is given, as Ray counts it.

    Args:
        resources: The run's.
    """
    return {"CPU": resources.cpus, "GPU": resources.gpus or 0.0}


def alone(resources: ResourcesConfig) -> dict[str, float]:
    """What a trial is given for which its share has too little memory: a GPU or, without GPUs, a node to itself.

    Args:
        resources: The run's.
    """
    if resources.gpus:
        return share(resources) | {"GPU": max(1.0, resources.gpus)}
    return share(resources) | {"CPU": min(int(node["CPU"]) for node in nodes() if _room_on(node, resources))}


def _room_on(node: Mapping[str, float], resources: ResourcesConfig) -> int:
    by_cpu, gpus = int(node.get("CPU", 0) / resources.cpus), resources.gpus or 0
    if not gpus:
        return by_cpu
    has = int(node.get("GPU", 0))
    return min(by_cpu, has * int(1 / gpus + 1e-6) if gpus < 1 else int(has / gpus))


def resolved(bench: Workbench, supplier: Supplier, packs: bool = False) -> RunConfig:
    """A run's configuration with the share of a GPU that each trial is given; told in the log where it was left open.

    Args:
        bench: The run's workbench, which is told how many trials are trained at once where that is to be measured.
        supplier: Hands workers what they need.
        packs: Whether trials may be trained at once.
    """
    resources = bench.config.resources
    if packs and resources.pack == "auto":
        bench.pack = _measured_pack(bench, supplier)
    if resources.gpus is not None:
        return bench.config
    there = [node for node in nodes() if node.get("GPU")]
    gpus = 0.0
    if there:
        found = _measured(bench, supplier)
        each = min(node.get("CPU", 0) / resources.cpus / node["GPU"] for node in there)
        gpus, why = share_of(found, each), "that is not known" if found is None else str(found)
        pack = bench.pack or 1 if resources.pack == "auto" else resources.pack
        gpus = min(1.0, gpus * pack) if gpus < 1 else gpus
        log.info("%s: a trial is given %g of a GPU (memory that it needs: %s)", bench.config.name, gpus, why)
    return _given(bench.config, gpus)


def _given(config: RunConfig, gpus: float) -> RunConfig:
    return config.model_copy(update={"resources": config.resources.model_copy(update={"gpus": gpus})})


@ray.remote(max_calls=1)
def _measure_pack(run: str, supplies: Any, place: Mapping[str, str] | None) -> tuple[int, str]:
    enter(place)
    bench = shared_workbench(run, supplies)
    torch.set_num_threads(bench.config.resources.cpus)
    return measured_pack(bench)


def _measured_pack(bench: Workbench, supplier: Supplier) -> int:
    """How many trials a worker is to train at once, as one of them measured it; told in the log."""
    gpus = bench.config.resources.gpus
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes()) else 0.0
    found = _by_worker(_measure_pack, bench, supplier, gpus, "whether packs win")
    size, said = found or (1, "packs: off, as one could not be measured by a worker")
    log.info("%s: %s", bench.config.name, said)
    return size


@ray.remote(max_calls=1)  # the process ends with it, and gives its memory back
def _measure(run: str, supplies: Any, place: Mapping[str, str] | None) -> tuple[int, int] | None:
    enter(place)
    return measure_footprint(shared_workbench(run, supplies))


def _measured(bench: Workbench, supplier: Supplier) -> Footprint | None:
    """What a process takes that trains the largest design, on a whole GPU of some node."""
    found = _by_worker(_measure, bench, supplier, 1.0, "how much memory a trial needs")
    return None if found is None else Footprint(*found)


def _by_worker(task: Any, bench: Workbench, supplier: Supplier, gpus: float, what: str) -> Any:
    """What a worker measures, with a trial's CPUs and some GPUs; None where it cannot, and that is told."""
    supplies, place = supplier.of_bench(bench)
    needs = {"num_cpus": bench.config.resources.cpus, "num_gpus": gpus}
    asked = task.options(**needs).remote(_given(bench.config, gpus).model_dump_json(), supplies, place)
    try:
        return ray.get(asked, timeout=_PATIENCE)
    except Exception as error:
        log.warning("%s: %s was not measured (%s)", bench.config.name, what, error)
        ray.cancel(asked, force=True)
        return None
