"""What a design's training step costs: operations, time and memory, from its placements and a few measured steps.

A step's cost adds up: something for every step, for each block from the lowest placement on, and for each method by the
number and the sizes of its placements. The shares are fitted to steps of a few
designs of the space, on the device and in the precision of the run, and are never negative: a larger design costs more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from petlas.files import write_json
from petlas.petl import Design, Placement, methods_of, untouched
from petlas.search.runners.place import elsewhere
from petlas.search.timed_steps import Setting, StepCost, TimedSteps

log = logging.getLogger("petlas")

FILE = "cost_model.json"
"""In the run folder: what was measured, so that a search that goes on counts as it did."""
KINDS = ("flops", "seconds", "bytes")
_LOWEST = "lowest block: "
_STATE = 12  # bytes for each trained number: its gradient and two moments

Shares = Mapping[str, Mapping[str, float]]
"""For each kind of cost what each feature of a design adds: see `features`."""


class CostModel:
    """The costs of designs on one backbone, device and precision.

    Args:
        shares: For each kind of cost what each feature of a design adds: see `features`.
        depth: Blocks of the backbone.
        batch: Images in a step.
        fixed: Bytes of the backbone's weights.
        params: The trained parameters of a design.
        measure: Measures a design with methods that the model was not fitted to.
    """

    def __init__(
        self,
        shares: Shares,
        depth: int,
        batch: int,
        fixed: int,
        params: Callable[[Design], int],
        measure: Callable[[Design], StepCost],
    ) -> None:
        self.shares, self._depth, self._batch = shares, depth, batch
        self._fixed, self._params, self._measure = fixed, params, measure
        self._others: dict[Design, StepCost] = {}

    def cost(self, design: Design) -> StepCost:
        """What a step of a design costs, for each image."""
        found = features(design, self._depth)
        if not found.keys() <= self.shares.get("flops", {}).keys():
            if design not in self._others:
                self._others[design] = self._measure(design)
            return self._others[design]
        return StepCost(**{kind: total(found, self.shares[kind]) for kind in KINDS})

    def flops(self, design: Design) -> float:
        """Operations of a training step, for each image."""
        return self.cost(design).flops

    def latency_ms(self, design: Design) -> float:
        """Milliseconds of a training step."""
        return 1000 * self._batch * self.cost(design).seconds

    def train_memory_gb(self, design: Design) -> float:
        """GiB of a training step: weights, what is trained with its optimiser, and what the backward pass needs."""
        return (self._fixed + _STATE * self._params(design) + self._batch * self.cost(design).bytes) / 2**30


LIMITS: dict[str, Callable[[CostModel], Callable[[Design], float]]] = {
    "flops": lambda model: model.flops,
    "latency_ms": lambda model: model.latency_ms,
    "train_memory_gb": lambda model: model.train_memory_gb,
}
"""What `budget` may limit besides parameters."""


def features(design: Design, depth: int) -> dict[str, float]:
    """What the cost of a design's step depends on.

    Gradients pass through the lowest block that a design touches as far down as its methods there act, so that this
    block has features of its own: of these the most expensive counts. Blocks below it cost nothing where what they
    compute is kept, and else the same in each step.

    Args:
        design: The design.
        depth: Blocks of the backbone.
    """
    alone = untouched(design, depth)
    found: dict[str, float] = {"step": 1, "back": max(0, depth - alone - 1)}
    for method in methods_of(design):
        placements = design.by_method[method.name]
        for placement in placements:
            name = _name(placement)
            found[name] = found.get(name, 0) + 1
            if (placement.block or 0) <= alone:
                found[_LOWEST + name] = 1
        for name in dict.fromkeys(map(_name, placements)):
            own = [placement for placement in placements if _name(placement) == name]
            if own[0].size:
                found[f"{name} size"] = method.spread(own, depth)
    return found


def _name(placement: Placement) -> str:
    return " ".join([placement.method, *(f"{key}={value}" for key, value in placement.options)])


def fit(measured: Sequence[tuple[Mapping[str, float], StepCost]]) -> Shares:
    """The shares, none negative, that come nearest to what was measured, by relative error.

    Args:
        measured: Features of designs, and what they cost.
    """
    from scipy.optimize import nnls  # slow to import, and needed here only

    names = sorted({name for found, _ in measured for name in found})
    rows = np.array([[found.get(name, 0) for name in names] for found, _ in measured], dtype=float)
    scale = np.maximum(rows.max(axis=0), 1)
    shares = {}
    for kind in KINDS:
        costs = np.maximum([getattr(cost, kind) for _, cost in measured], 1e-12)
        solved, _ = nnls(rows / scale / costs[:, None], np.ones(len(costs)))
        shares[kind] = dict(zip(names, (float(value) for value in solved / scale), strict=True))
    return shares


def total(found: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """A cost: the sum over its features, of those of the lowest block only the largest, and no more than a block's.

    Args:
        found: The features of a design.
        shares: What each of them adds.
    """
    lowest = max((shares[name] for name in found if name.startswith(_LOWEST)), default=0.0)
    rest = sum(shares[name] * value for name, value in found.items() if not name.startswith(_LOWEST))
    return rest + min(lowest, shares["back"])


def samples(largest: Design) -> Iterator[Design]:
    """Designs that tell the shares apart: each method alone, at its largest, at a quarter, and at its first place.

    Args:
        largest: The largest design of the space.
    """
    yield Design((), largest.backbone)
    for placements in largest.by_method.values():
        smaller = [replace(p, size=max(1, p.size // 4)) if p.size else p for p in placements]
        for chosen in dict.fromkeys((tuple(placements), tuple(smaller), tuple(placements[-1:]), tuple(placements[:1]))):
            yield Design.of(chosen, largest.backbone)


def cost_model(bench: Setting, shares: Shares | None = None) -> CostModel:
    """The cost model of a run.

    Args:
        bench: The run's workbench.
        shares: As they were measured elsewhere; by default those of the run folder, or else they are measured here.

    Raises:
        UserError: When the backbone or the task is at fault.
    """
    found = shares or kept_shares(bench) or measure_shares(bench)
    batch, weights = bench.config.train.batch_size, 4 * bench.shape.params
    return CostModel(found, bench.shape.depth, batch, weights, bench.cost, partial(_measure_other, TimedSteps(bench)))


def measure_shares(bench: Setting) -> Shares:
    """The shares, fitted to steps that are measured on this machine.

    Args:
        bench: The run's workbench.

    Raises:
        UserError: When the backbone or the task is at fault.
    """
    known = list(samples(bench.space.largest))
    found = zip(known, TimedSteps(bench).measure_all(known), strict=True)
    return fit([(features(design, bench.shape.depth), cost) for design, cost in found])


def kept_shares(bench: Setting) -> Shares | None:
    """What the run folder keeps; None where it has none, or they are of another space, device or batch.

    Args:
        bench: The run's workbench.
    """
    try:
        found = json.loads((bench.config.folder / FILE).read_text(encoding="utf-8"))
        shares: Shares | None = found["shares"] if found["stamp"] == _stamp(bench) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shares


def keep_shares(bench: Setting, shares: Shares) -> None:
    """Write the shares into the run folder, so that a search that goes on counts as it did.

    Args:
        bench: The run's workbench; its folder is there.
        shares: To be kept.
    """
    if kept_shares(bench) != shares:
        write_json(bench.config.folder / FILE, {"stamp": _stamp(bench), "shares": shares})


def _stamp(bench: Setting) -> dict[str, Any]:
    stamp = TimedSteps(bench).stamp()
    return stamp | {"device": "of a cluster"} if elsewhere(bench.config) else stamp  # which is not known here


def _measure_other(steps: TimedSteps, design: Design) -> StepCost:
    """A design with methods that the model was not fitted to."""
    if elsewhere(steps.config):
        log.warning("steps with methods that the space does not have are measured on this machine, not on the cluster")
    return steps.measure(design)


def measured_costs(bench: Setting) -> CostModel:
    """The costs of designs, each measured when it is asked for: quicker than a model where there are few.

    Args:
        bench: The run's workbench.
    """
    batch, weights = bench.config.train.batch_size, 4 * bench.shape.params
    return CostModel({}, bench.shape.depth, batch, weights, bench.cost, TimedSteps(bench).measure)
