"""Sizes in proportion to sensitivity, over any methods of a space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from petlas.petl.design import Design, Placement
from petlas.petl.methods import get_method
from petlas.spaces import Budget, Space, Stages, parse_blocks

Sites: TypeAlias = Sequence[Mapping[str, float]]
"""For each block, the sensitivity of each of its operations, such as `q`, `proj` or `norm1`, in the order of the
forward pass."""

_HALVINGS = 60
_MOST = 1e12  # times its largest size: beyond this nothing grows any more

_OPERATIONS_AT = {
    "attn": ("q", "k", "v", "proj"),
    "attn.in": ("q", "k", "v"),
    "attn.qkv": ("q", "k", "v"),
    "attn.tokens": ("q", "k", "v"),
    "attn.out": ("proj",),
    "attn.residual": ("proj",),
    "tokens": ("q", "k", "v"),
    "mlp": ("fc1", "gate", "fc2"),
    "mlp.in": ("fc1", "gate"),
    "mlp.out": ("fc2",),
    "pixels": (),
    "patch_embed": (),
    "norm": (),
    "norms": ("norm1", "norm2"),
    "head": (),
}
"""The operations next to a site of a method's; `attn.q` and such are their own, any other is the whole block."""


def sensitivity_at(sites: Sites, placement: Placement) -> float:
    """What the sensitivities of the operations at a placement's sites come to, in its block or in all of them.

    Args:
        sites: The sensitivities.
        placement: What is placed; its size does not matter.
    """
    places = get_method(placement.method).sites_of(placement)
    blocks = sites if placement.block is None else [sites[placement.block]]
    return sum(block[operation] for block in blocks for operation in _operations_at(places, block))


def _operations_at(places: Iterable[str], block: Mapping[str, float]) -> list[str]:
    """The operations of a block that are next to some sites, in the block's order: sums are the same in any process."""
    found: set[str] = set()
    for place in places:
        own = place.rpartition(".")[2]
        found.update((own,) if own in block else _OPERATIONS_AT.get(place, block))
    return [operation for operation in block if operation in found]


def proportional_design(space: Space, budget: Budget, sites: Sites) -> Design:
    """The design whose sizes are in proportion to the sensitivity at their sites, as large as the budget allows.

    Among the dimensions of a method, sizes are to be m s / mean(s), with s the sensitivities; m is the share of the
    method's largest size that is common to all methods, and is raised until nothing more fits. Each size is the
    nearest in the space that is not above that; what is left of the budget raises, one step at a time, the size that
    is the furthest behind.

    Args:
        space: The space.
        budget: The hard budget.
        sites: The sensitivities.

    Raises:
        SpaceError: When no design fits.
    """
    space.check_budget(budget)
    shares, first = _shares(space, sites), len(space.rules)

    def point(mean: float, depth: int) -> list[int]:
        choices = [
            max(0, int(np.searchsorted(d.sizes, mean * share * d.sizes[-1], side="right")) - 1)
            for d, share in zip(space.dimensions, shares, strict=True)
        ]
        return space.settle([*(min(depth, rule.high) for rule in space.rules), *choices])

    def fits(mean: float, depth: int) -> bool:
        return budget.allows(space.at(point(mean, depth)))

    deepest = max((rule.high for rule in space.rules), default=0)
    depth = next(depth for depth in range(deepest, -1, -1) if fits(0.0, depth))
    low, high = 0.0, 1.0
    while fits(high, depth) and high < _MOST:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle, depth) else (low, middle)
    best = point(low, depth)
    wanted = [high * share * d.sizes[-1] for d, share in zip(space.dimensions, shares, strict=True)]
    while True:
        behind = [
            (wanted[i] / d.sizes[choice + 1], i)
            for i, (d, choice) in enumerate(zip(space.dimensions, best[first:], strict=True))
            if choice < space.bounds(best, first + i)[1]
        ]
        for _, i in sorted(behind, key=lambda item: (-item[0], item[1])):
            larger = list(best)
            larger[first + i] += 1
            if budget.allows(space.at(larger)):
                best = larger
                break
        else:
            return space.at(best)


def _shares(space: Space, sites: Sites) -> list[float]:
    """For each dimension, its sensitivity over the mean of its method's."""
    scores = [sensitivity_at(sites, largest) for d in space.dimensions if (largest := d.placements[-1])]
    by_method: dict[str, list[float]] = {}
    for dimension, score in zip(space.dimensions, scores, strict=True):
        by_method.setdefault(dimension.method, []).append(score)
    means = {method: sum(own) / len(own) for method, own in by_method.items()}
    return [
        score / means[d.method] if means[d.method] else 1.0 for d, score in zip(space.dimensions, scores, strict=True)
    ]


def pruned(data: Mapping[str, Any], sites: Sites, stages: Stages = ()) -> dict[str, Any]:
    """A space's YAML without the least sensitive of its places; `prune` says which share of them goes.

    Places of all methods are compared by their share in their method's sensitivity, so that no method is dropped for
    touching few weights. What stands over the whole backbone, or must be present, stays.

    Args:
        data: The space as plain data, with `prune` from 0 to below 1.
        sites: The sensitivities.
        stages: The backbone's: blocks and width of each.
    """
    depth = len(sites)
    space = Space.from_dict(data, depth, stages=stages)
    shares = zip(space.dimensions, _shares(space, sites), strict=True)
    places = sorted((share, d.method, d.block) for d, share in shares if d.block is not None and d.sizes[0] == 0)
    gone = {(method, block) for _, method, block in places[: int(data["prune"] * len(places))]}
    methods = {}
    for name, spec in data["methods"].items():
        kept = [block for block in parse_blocks(spec["blocks"], depth, stages) if (name, block) not in gone]
        if kept:
            methods[name] = {**spec, "blocks": spec["blocks"] if kept == [None] else kept}
    return {key: value for key, value in data.items() if key != "prune"} | {"methods": methods}
