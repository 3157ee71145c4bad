"""How a search spreads what it may cost over fidelities: many short trainings, then ever fewer and longer ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

_FACTOR = 3
"""The epochs of a rung by those of the one below it (Li et al., Hyperband, 2018)."""
_RUNGS = 2
"""Shorter trainings than a third say too little of images that are changed (benchmarks/selection/replay.md)."""
_WIDE = 8
"""So many trainings of a rung are halved over folds, too."""


@dataclass(frozen=True)
class Rung:
    """Trainings at one fidelity.

    Args:
        epochs: Of each.
        turn: Which fold they are measured on, counted over all rungs.
        trials: How many there are.
    """

    epochs: int
    turn: int
    trials: int


def ladder(cost: float, epochs: int, price: Callable[[int], float], trials: int) -> tuple[Rung, ...]:
    """The rungs that a cost pays for, the first with the fewest epochs; an equal part of it goes to each length.

    Where the longest trainings would be fewer than two, there are none of them: one alone cannot be compared.

    Args:
        cost: What all of them may cost.
        epochs: Of a whole training.
        price: What a training of so many epochs costs.
        trials: How many there may be.
    """
    lengths = sorted({max(1, math.ceil(epochs / _FACTOR**i)) for i in range(_RUNGS)})
    counts = _counts(cost, [price(length) for length in lengths])
    while sum(counts) > trials:
        cost *= 0.95
        counts = _counts(cost, [price(length) for length in lengths])
        if sum(counts) <= 1:
            break
    found: list[Rung] = []
    for length, count in zip(lengths, counts, strict=False):
        found += [Rung(length, len(found) + i, n) for i, n in enumerate(_halved(count) if found else [count])]
    return tuple(found)


def _counts(cost: float, prices: list[float]) -> list[int]:
    """How many trainings of each length; shorter than `prices` where the longest are left out."""
    left, found = cost, [0] * len(prices)
    for place in reversed(range(1, len(prices))):
        found[place] = round(left / (place + 1) / prices[place])
        left -= found[place] * prices[place]
    found[0] = math.floor(left / prices[0] + 1e-9)
    falls = all(more > fewer for more, fewer in pairwise(found))
    if len(found) > 1 and not (found[-1] >= 2 and falls):
        return _counts(cost, prices[:-1])
    return [max(1, found[0]), *found[1:]]


def _halved(count: int) -> Iterator[int]:
    """The trainings of one length by folds: each time the better half goes on."""
    while count >= _WIDE:
        yield math.ceil(count / 2)
        count //= 2
    yield count
