"""Scoring designs with inherited weights: designs that share their first blocks share what those computed."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from petlas.petl import Design, Family, Supernet, family_of, frozen_casts, methods_of
from petlas.search.objectives import Objective
from petlas.search.stages.supernet import shared_supernet
from petlas.search.training import EpochResult, ImageBatches
from petlas.search.training.numerics import precision
from petlas.search.workbench import SERVED, Workbench

_UNRANKED = (math.inf, 0)


class ActivationCache:
    """Activations by what computed them; those that only bad designs have go first when the bound is reached.

    A search varies the best designs, so their activations are what is asked for again: in simulated evolutions a cache
    ordered by score, equal ones by age, saves as much as one of twice the size that is ordered by use.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._kept: dict[Hashable, Tensor] = {}
        self._ranks: dict[Hashable, tuple[float, int]] = {}  # the best score, and which design had it last
        self._designs = 0

    def get(self, key: Hashable) -> Tensor | None:
        """What was put under a key, if it is still there."""
        return self._kept.get(key)

    def put(self, key: Hashable, value: Tensor) -> None:
        """Keep a tensor, which nobody may change from now on; until it is ranked, before all others.

        Args:
            key: What computed it.
            value: The activation (B, ...).
        """
        if value.nbytes > self.limit or key in self._kept:
            return
        self._kept[key], self._ranks[key] = value, _UNRANKED
        self.used += value.nbytes
        while self.used > self.limit:
            worst = min(reversed(self._ranks), key=self._ranks.__getitem__)  # of one design that of its last block
            del self._ranks[worst]
            self.used -= self._kept.pop(worst).nbytes

    def rank(self, keys: Iterable[Hashable], score: float) -> None:
        """Say what a design scored; the best score of an activation's designs counts.

        Args:
            keys: Of the design's activations.
            score: The more the better.
        """
        self._designs += 1
        rank = (score, self._designs)
        for key in keys:
            if key in self._ranks:
                known = self._ranks[key]
                self._ranks[key] = rank if known == _UNRANKED else max(known, rank)


class Scorer:
    """Values of designs on fixed images, with a supernet's weights.

    A design's leading blocks are computed once for all designs that share them, to the last digit. What the input of a
    block depends on, the methods say: the placements before it, as a rule.

    Args:
        supernet: The trained supernet.
        data: The images.
        objective: What is measured.
        cache: Bytes for activations; 0 computes every design whole.
        autocast: The precision, as in training.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: ImageBatches,
        objective: Objective,
        cache: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.supernet, self.data, self.objective, self.autocast = supernet, data, objective, autocast
        self._family: Family = family_of(supernet.model)
        self._whole = self._family.why_whole(supernet.model) is not None
        self._cache = ActivationCache(cache)

    @torch.inference_mode()
    def score(self, design: Design) -> float:
        """The value of a design; NaN if an output is not finite."""
        model = self.supernet.activate(design).eval()
        prefixes = _prefixes(design, len(self._family.blocks(model)))
        used: list[Hashable] = []
        score, meter = math.nan, self.objective.meter()
        try:
            for index, (images, targets) in enumerate(self.data):
                keys: list[Hashable] = [(index, prefix) for prefix in prefixes]
                used += keys
                with precision(images.device, self.autocast), frozen_casts(model)():
                    logits = self._logits(model, images, keys)
                meter.add(logits, targets)
            score = meter.value()
        finally:
            sign = 1 if self.objective.metric.maximize else -1
            self._cache.rank(used, -math.inf if math.isnan(score) else sign * score)
        return score

    def _logits(self, model: nn.Module, images: Tensor, keys: list[Hashable]) -> Tensor:
        """The model's output from the deepest block whose output is known; `keys[i]` names the input of block i."""
        if self._whole:
            logits: Tensor = model(images)
            return logits
        start, x = len(keys) - 1, None
        while start >= 0 and (x := self._cache.get(keys[start])) is None:
            start -= 1
        if x is None:
            start, x = 0, self._family.enter(model, images)
            self._keep(keys, 0, x)
        for number in range(start, len(self._family.block_paths(model))):
            x = self._family.step(model, number, x)
            self._keep(keys, number + 1, x)
        return self._family.leave(model, x)

    def _keep(self, keys: list[Hashable], number: int, x: Tensor) -> None:
        if number < len(keys):
            self._cache.put(keys[number], x)


def _prefixes(design: Design, depth: int) -> list[Hashable]:
    """For the input of each block, what it depends on of a design; none where blocks share more than the stream."""
    methods = methods_of(design)
    if not all(method.blockwise for method in methods):
        return []
    parts = ([m.enters(design.by_method[m.name], block) for m in methods] for block in range(depth))
    return [(block, *filter(None, entering)) for block, entering in enumerate(parts)]


@lru_cache(maxsize=SERVED)
def shared_scorer(bench: Workbench) -> Scorer:
    """The scorer of a run, made once in a process."""
    cache = int(bench.config.resources.cache_gb * 2**30)
    data = bench.batches(bench.task.views["val"])
    return Scorer(shared_supernet(bench), data, bench.objective, cache, bench.autocast)


class ScoringRun:
    """The trial that scores one design: a single, measured epoch in which nothing is trained.

    Args:
        bench: The run's workbench.
        design: What is scored.
    """

    def __init__(self, bench: Workbench, design: Design) -> None:
        self._scorer = shared_scorer(bench)
        self._design = design
        self.finished = False

    def epoch(self) -> EpochResult:
        """Score the design."""
        start = time.perf_counter()
        val = self._scorer.score(self._design)
        self.finished = True
        return EpochResult(1, 0.0, val, time.perf_counter() - start)
