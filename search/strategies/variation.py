"""Variations of a search's leaders, in their settings and in their designs. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from itertools import count as numbers

import numpy as np

from petlas.spaces import Budget, Candidate, Space

_TRIES = 10
"""For each child that is wanted."""


def vary(
    parents: Sequence[Candidate],
    count: int,
    space: Space,
    budget: Budget,
    rng: np.random.Generator,
    avoid: Collection[str] = (),
) -> list[Candidate]:
    """New candidates near the parents, in turns: other settings, another design of the same methods, a crossing.

    Args:
        parents: Candidates of the space, the best first; it has one child more than others.
        count: How many are wanted; there may be fewer in a small space. Without parents, they are drawn at random.
        space: What may be chosen.
        budget: The hard budget.
        rng: The source of randomness.
        avoid: Keys that the children do not have.
    """
    seen, found = set(avoid), list[Candidate]()
    for child in _children(parents, count * _TRIES, space, budget, rng):
        if len(found) >= count:
            break
        if child.key not in seen:
            seen.add(child.key)
            found.append(child)
    return found


def _children(
    parents: Sequence[Candidate], tries: int, space: Space, budget: Budget, rng: np.random.Generator
) -> Iterator[Candidate]:
    movable = any(setting.options is None or len(setting.options) > 1 for setting in space.settings)
    for number in numbers():
        if number >= tries:
            return
        if not parents:
            yield space.sample(rng, budget)
            continue
        way, place = divmod(number, len(parents))
        parent = parents[place]
        if way % 2 == 0 and movable:
            yield _moved(parent, space, rng)
        elif way % 4 == 3 and len(parents) > 1:
            other = parents[(place + 1 + int(rng.integers(len(parents) - 1))) % len(parents)]
            yield space.crossover(parent, other, rng, budget, by="method")
        else:
            yield _redesigned(parent, space, budget, rng)


def _moved(parent: Candidate, space: Space, rng: np.random.Generator) -> Candidate:
    """The same design with every setting moved."""
    old = dict(parent.settings)
    return Candidate(parent.design, tuple((s.name, s.step(old[s.name], rng)) for s in space.settings))


def _redesigned(parent: Candidate, space: Space, budget: Budget, rng: np.random.Generator) -> Candidate:
    """Another design, of the parent's methods and of those that cannot be absent."""
    kept = {*parent.design.by_method, *(d.method for d in space.dimensions if d.sizes[0])}
    own = dataclasses.replace(
        space,
        dimensions=tuple(d for d in space.dimensions if d.method in kept),
        rules=tuple(rule for rule in space.rules if rule.method in kept),
    )
    return (own if own.dimensions else space).mutate(parent, rng, budget)
