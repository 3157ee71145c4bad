"""What a design's training step costs: operations, time and memory, from its placements and a few measured steps.

A step's cost adds up: something for every step, for each block from the lowest placement on, and for each method by the
number and the sizes of its placements. The shares are fitted to steps of a few
designs of the space, on the device and in the precision of the run, and are never negative: a larger design costs more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from petlas.files import write_json
from petlas.petl import Design, Placement, methods_of, untouched
from petlas.search.timed_steps import Setting, StepCost, TimedSteps

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


def cost_model(bench: Setting) -> CostModel:
    """The cost model of a run, from its folder where it was made there before.

    Args:
        bench: The run's workbench.

    Raises:
        UserError: When the backbone or the task is at fault.
    """
    config, depth, steps = bench.config, bench.shape.depth, TimedSteps(bench)
    path, stamp = config.folder / FILE, steps.stamp()
    shares = _read(path, stamp)
    if shares is None:
        shares = fit([(features(d, depth), steps.measure(d)) for d in samples(bench.space.largest)])
        if path.parent.is_dir():  # a plan is made before there is a run
            write_json(path, {"stamp": stamp, "shares": shares})
    batch, weights = config.train.batch_size, 4 * bench.shape.params
    return CostModel(shares, depth, batch, weights, bench.cost, steps.measure)


def measured_costs(bench: Setting) -> CostModel:
    """The costs of designs, each measured when it is asked for: quicker than a model where there are few.

    Args:
        bench: The run's workbench.
    """
    batch, weights = bench.config.train.batch_size, 4 * bench.shape.params
    return CostModel({}, bench.shape.depth, batch, weights, bench.cost, TimedSteps(bench).measure)


def _read(path: Path, stamp: Mapping[str, Any]) -> Shares | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shares: Shares | None = found["shares"] if found["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shares
