"""How many trials are trained at once: as the run says, or as many as win where it runs."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from petlas.petl import Adapters, groups
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity, PackTraining
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")

MOST = {"cpu": 8, "cuda": 16}
"""Trials in a pack, by the kind of device, where packs win."""
_WINS, _ROUNDS = 1.05, 3


def pack_size(bench: Workbench) -> int:
    """How many trials of a run are trained at once: `resources.pack`; with `auto` it is measured once, and said.

    Args:
        bench: The run's workbench, which keeps what was measured, be it here or where trials are done.
    """
    wanted = bench.config.resources.pack
    if wanted != "auto":
        return wanted
    if bench.pack is None:
        bench.pack, said = measured_pack(bench)
        log.info("%s", said)
    return bench.pack


def measured_pack(bench: Workbench) -> tuple[int, str]:
    """How many trials of a run are to be trained at once here, as steps of a pack show, and what to say of it.

    Args:
        bench: The run's workbench.
    """
    size = MOST.get(bench.device.type, 1)
    try:
        found = _throughput(bench, size) if size > 1 else None
    except Exception as error:
        return 1, f"packs: off, as one could not be measured ({error})"
    if found is None:
        return 1, "packs: off, as few designs of the space go together"
    wins = found > _WINS
    return size if wins else 1, f"packs: {'on' if wins else 'off'}, at {found:.2f} times the steps per second"


def _throughput(bench: Workbench, size: int) -> float | None:
    """Steps per second of random designs of the space in a pack, beside one by one; None where they go not together."""
    rng, host = np.random.default_rng(bench.config.seed), Adapters(bench.backbone().to(bench.device))
    fidelity = Fidelity(bench.config.train.epochs, bench.config.seed)
    runs = {}
    for number in range(size):
        name, candidate = f"m{number}", bench.space.sample(rng, bench.budget)
        runs[name] = TrainingRun(bench, candidate, fidelity, host=host, name=name)
    names = max(groups(host, runs)[0], key=len)
    if len(names) < max(2, size // 2):
        return None
    members = {name: runs[name] for name in names}
    pack = PackTraining(host, members)
    picks = {name: run.begin_epoch()[0] for name, run in members.items()}

    def one_by_one() -> None:
        for name, run in members.items():
            run.update(run.learn(picks[name]), picks[name])

    warm = 2 if bench.device.type == "cuda" else 1  # the second step makes graphs there
    ratios = [
        _seconds(one_by_one, bench.device) / _seconds(lambda: pack.step(picks), bench.device)
        for _ in range(warm + _ROUNDS)
    ]
    return statistics.median(ratios[warm:])


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """Of an action; of this process alone where that can be told."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start
