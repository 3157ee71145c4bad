"""Give a parameter budget to the weights that the loss is most sensitive to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from petlas.petl import Design, Placement, count_params
from petlas.petl.shape import BackboneShape, BlockTensor
from petlas.search.config import SensitivityConfig

_BINS = 2**15
"""A float32 of at least 0 is ordered as its upper 16 bits are, which fall into so many bins."""


@dataclass(frozen=True)
class Ranking:
    """The most sensitive entries of some tensors, the best first: `owners[i]` is the index of entry i's tensor.

    Args:
        tensors: The tensors.
        owners: (M,), the M most sensitive entries of all.
        complete: Whether these are all that there are.
    """

    tensors: tuple[BlockTensor, ...]
    owners: np.ndarray
    complete: bool


def rank_entries(sensitivities: Mapping[BlockTensor, Tensor], most: int) -> Ranking:
    """Rank at least the `most` most sensitive entries. Only these are sorted, once for all budgets; equal ones stay in
    the order of the tensors.

    Args:
        sensitivities: A value of at least 0 for each entry of each tensor.
        most: How many entries to rank.
    """
    values = [value.detach().flatten().float() for value in sensitivities.values()]
    bins = torch.zeros(_BINS, dtype=torch.long)
    for value in values:
        bins += torch.bincount(_bin(value), minlength=_BINS).cpu()
    reached = bins.flip(0).cumsum(0)
    enough = int(torch.searchsorted(reached, min(most, int(reached[-1]))))
    least = _BINS - 1 - min(enough, _BINS - 1)
    kept = [value[_bin(value) >= least] for value in values]
    owners = torch.cat([torch.full((len(value),), i, dtype=torch.int32) for i, value in enumerate(kept)])
    order = torch.cat(kept).argsort(descending=True, stable=True)
    complete = len(order) == sum(value.numel() for value in values)
    return Ranking(tuple(sensitivities), owners[order.to(owners.device)].numpy(), complete)


def _bin(value: Tensor) -> Tensor:
    return value.view(torch.int32) >> 16


@dataclass(frozen=True)
class Allocation:
    """What a budget buys: matrices with a module, whole vectors, single entries of the others; and what is left."""

    modules: frozenset[BlockTensor]
    whole: frozenset[BlockTensor]
    entries: Mapping[BlockTensor, int]
    left: int

    def design(self, shape: BackboneShape, module: str, rank: int) -> Design:
        """The design: `module` at the matrices, by its option `targets`, and `sparse` for all else.

        Args:
            shape: Of the backbone.
            module: The method that matrices get.
            rank: Its size.
        """
        placements = []
        for block in range(shape.depth):
            mine = [t for t in (*self.modules, *self.whole, *self.entries) if t.block == block]
            targets = _names(t for t in mine if t in self.modules)
            if targets:
                placements.append(Placement(module, block, rank, (("targets", targets),)))
            whole = [t for t in mine if t in self.whole]
            size = sum(t.entries for t in whole) + sum(self.entries.get(t, 0) for t in mine)
            if size:
                given = {"skip": targets, "whole": _names(whole)}
                options = tuple((key, names) for key, names in given.items() if names)
                placements.append(Placement("sparse", block, size, options))
        return Design.of(placements, shape.name)


def _names(tensors: Iterable[BlockTensor]) -> str:
    return ",".join(sorted(t.name for t in tensors))


def allocate(ranking: Ranking, costs: Sequence[int], budget: int, settings: SensitivityConfig) -> Allocation:
    """SPT's rule, with the budget used up to the last parameter.

    The most sensitive entries are taken one by one. A matrix of which cost / alpha entries are taken gets a module
    instead of them, a vector of which length / beta are taken is trained whole; then its further entries are free.
    Where that would exceed the budget the tensor goes on entry by entry, and the next ones are tried. SPT (He et al.,
    2023) instead takes the nearest of 79 thresholds, which misses a budget by up to 15%.

    Args:
        ranking: The entries in their order.
        costs: For each tensor, the parameters of its module, or its length if it is a vector.
        budget: Parameters.
        settings: alpha and beta.

    Returns:
        The allocation; what is left of the budget is for entries beyond the ranking.
    """
    places = [np.flatnonzero(ranking.owners == i) for i in range(len(ranking.tensors))]
    needs = [_need(tensor, cost, settings) for tensor, cost in zip(ranking.tensors, costs, strict=True)]
    reached = ((need, i) for i, need in enumerate(needs) if need is not None and need <= len(places[i]))
    events = sorted((int(places[i][need - 1]), i) for need, i in reached)  # where a tensor has enough entries
    taken = np.stack([np.searchsorted(mine, [place for place, _ in events], side="right") for mine in places], axis=1)
    single, spent = np.ones(len(places), dtype=bool), 0
    for (_, i), counts in zip(events, taken, strict=True):
        alone = int(counts[single].sum())
        if spent + alone > budget:
            break
        if spent + costs[i] + alone - counts[i] <= budget:
            single[i] = False
            spent += costs[i]
    entries = np.flatnonzero(single[ranking.owners])[: budget - spent]
    counted = np.bincount(ranking.owners[entries], minlength=len(places))
    chosen = [tensor for tensor, alone in zip(ranking.tensors, single, strict=True) if not alone]
    return Allocation(
        frozenset(t for t in chosen if not t.is_vector),
        frozenset(t for t in chosen if t.is_vector),
        {tensor: int(count) for tensor, count in zip(ranking.tensors, counted, strict=True) if count},
        budget - spent - len(entries),
    )


def _need(tensor: BlockTensor, cost: int, settings: SensitivityConfig) -> int | None:
    """How many entries of a tensor must be taken for its module, or to train it whole; None where that never pays."""
    if cost > tensor.entries:
        return None
    return max(1, math.ceil(cost / (settings.beta if tensor.is_vector else settings.alpha)))


def allocate_all(
    sensitivities: Mapping[BlockTensor, Tensor],
    shape: BackboneShape,
    budgets: Sequence[int],
    settings: SensitivityConfig,
) -> list[Design]:
    """A design for each budget by SPT's rule, from one ranking; see `allocate`.

    Args:
        sensitivities: A value of at least 0 for each entry of each tensor of the backbone's blocks.
        shape: Of the backbone.
        budgets: Parameters.
        settings: The rule's, and the modules that it inserts.
    """
    tensors = tuple(sensitivities)
    costs = [_cost(tensor, shape, settings) for tensor in tensors]
    values, most, found = dict(sensitivities), 2 * max(budgets), dict[int, Allocation]()
    while True:
        ranking = rank_entries(values, most)
        open_ = [budget for budget in budgets if budget not in found]
        tried = {budget: allocate(ranking, costs, budget, settings) for budget in open_}
        found |= {budget: each for budget, each in tried.items() if ranking.complete or not each.left}
        longer = [each for budget, each in tried.items() if budget not in found]
        if not longer:
            return [found[budget].design(shape, settings.module, settings.rank) for budget in budgets]
        most *= 2
        for tensor, cost in zip(tensors, costs, strict=True):
            need = _need(tensor, cost, settings)
            if need is not None and all(tensor in each.modules | each.whole for each in longer):
                values[tensor] = values[tensor].flatten().topk(need).values  # the others are free


def _cost(tensor: BlockTensor, shape: BackboneShape, settings: SensitivityConfig) -> int:
    """What it takes to train a tensor by a module, or a vector as a whole.

    No module has a depthwise convolution as its target: it costs more than it has entries, which stand alone.
    """
    if tensor.is_vector:
        return tensor.entries
    if tensor.name not in (name for layer in shape.blocks[tensor.block].linears for name in layer.names):
        return tensor.entries + 1
    module = Placement(settings.module, tensor.block, settings.rank, (("targets", tensor.name),))
    return count_params(Design.of([module]), shape)
