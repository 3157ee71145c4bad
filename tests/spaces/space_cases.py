"""Spaces, budgets and an oracle for the tests of this folder: designs are enumerated from the YAML, not by a Space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from petlas.petl.design import Design, Placement
from petlas.spaces import Budget, Space

quick = hypothesis_settings(max_examples=25, deadline=None)
WEIGHTS = {"lora": 7, "adapter": 5, "ssf": 3, "bitfit": 11, "vpt": 2}


def cost(design: Design) -> int:
    """Monotone, but no sum over the placements."""
    sizes = [p.size or 1 for p in design.placements]
    shared = 13 if "adapter" in design.by_method else 0
    return sum(WEIGHTS[p.method] * (p.size or 1) for p in design.placements) + shared + 2 * max(sizes, default=0) ** 2


@dataclass(frozen=True)
class Case:
    data: dict[str, Any]
    depth: int
    share: float | None = None

    @cached_property
    def space(self) -> Space:
        return Space.from_dict(self.data, self.depth)

    @cached_property
    def every(self) -> list[Design]:
        """All designs of the YAML, by brute force."""
        vectors = []
        for method, spec in self.data["methods"].items():
            blocks = {"all": list(range(self.depth)), "backbone": [None]}.get(str(spec["blocks"]), spec["blocks"])
            depths = self.data.get("depth", {})
            depths = depths.get(method) if isinstance(depths, dict) else depths if blocks != [None] else None
            options = tuple(spec.get("options", {}).items())
            sized = "sizes" in spec
            allowed = []
            for sizes in product(spec.get("sizes", [0, 1]), repeat=len(blocks)):
                present = [size > 0 for size in sizes]
                if depths is None or any(present == [i < d for i in range(len(blocks))] for d in depths):
                    pairs = zip(blocks, sizes, strict=True)
                    allowed.append([Placement(method, b, s if sized else None, options) for b, s in pairs if s])
            vectors.append(allowed)
        return [Design.of(p for part in parts for p in part) for parts in product(*vectors)]

    @cached_property
    def budget(self) -> Budget:
        if self.share is None:
            return Budget()
        costs = [cost(design) for design in self.every]
        return Budget(min(costs) + round(self.share * (max(costs) - min(costs))), cost)

    @cached_property
    def feasible(self) -> list[Design]:
        return [design for design in self.every if self.budget.limit is None or cost(design) <= self.budget.limit]


@st.composite
def _sizes(draw: st.DrawFn, zero: bool) -> list[int]:
    sizes = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=2)))
    return [0, *sizes] if zero or draw(st.booleans()) else sizes


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small spaces of one or two methods over blocks, perhaps one over the backbone, rules and a budget."""
    depth = draw(st.integers(1, 3))
    methods: dict[str, Any] = {}
    rules: dict[str, list[int]] = {}
    for method in draw(st.permutations(["lora", "adapter", "ssf"]))[: draw(st.integers(1, 2))]:
        blocks: Any = draw(st.just("all") | st.sets(st.integers(0, depth - 1), min_size=1).map(sorted))
        ruled = draw(st.booleans())
        methods[method] = {"blocks": blocks}
        if method != "ssf":
            methods[method] |= {"sizes": draw(_sizes(zero=ruled))}
        if ruled:
            count = depth if blocks == "all" else len(blocks)
            depths = draw(st.sets(st.integers(0, count), min_size=1).filter(lambda depths: depths != {0}))
            rules[method] = sorted(depths)
    if draw(st.booleans()):
        methods["bitfit"] = {"blocks": "backbone", "options": {"scale": 0.5}}
    share = draw(st.none() | st.floats(0, 1))
    return Case({"methods": methods} | ({"depth": rules} if rules else {}), depth, share)


@st.composite
def settings(draw: st.DrawFn, finite: bool = False) -> dict[str, Any]:
    """One or two settings of a space: a range or a list of choices each."""
    numbers = st.floats(1e-5, 10)
    spec: dict[str, Any] = {}
    for name in draw(st.permutations(["lr", "weight_decay"]))[: draw(st.integers(1, 2))]:
        if finite or draw(st.booleans()):
            spec[name] = sorted(draw(st.sets(numbers, min_size=1, max_size=3)))
        else:
            low, high = sorted(draw(st.tuples(numbers, numbers).filter(lambda ends: not math.isclose(*ends))))
            spec[name] = {"low": low, "high": high, "log": draw(st.booleans())}
    return spec


NOAH = Case({"methods": {m: {"blocks": "all", "sizes": [0, 1, 5, 10]} for m in ("vpt", "lora", "adapter")}}, 12)
NOAH_DEPTH = Case(NOAH.data | {"depth": [3, 6, 9, 12]}, 12)
LR = {"low": 3e-4, "high": 2e-2, "log": True}
TUNED = Case(NOAH.data | {"settings": {"lr": LR, "weight_decay": [0, 0.01, 0.1]}}, 12)
FREE = Case(NOAH_DEPTH.data | {"settings": {"lr": LR, "label_smoothing": {"low": 0, "high": 0.2}}}, 12)
