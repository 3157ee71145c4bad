"""Variations of a search's leaders, in their settings and in their designs, and which are alike. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count as numbers
from typing import TypeVar

import numpy as np

from petlas.petl.design import Design
from petlas.search.strategies.recipes import LR
from petlas.spaces import Budget, Candidate, Setting, Space

T = TypeVar("T")
_TRIES = 10
"""For each child that is wanted."""
_SHARED = 0.75
"""Designs that share so much of what they place are alike."""
_NEAR = 0.15
"""Settings are alike within this part of their range."""


def distinct(ranked: Sequence[Candidate], count: int, space: Space) -> list[Candidate]:
    """The best candidates that are not alike, and where there are too few of them the best of the others, too.

    What is measured of one of two candidates that are alike says nearly all about the other.

    Args:
        ranked: The best first.
        count: How many are wanted.
        space: Whose settings they have.

    Returns:
        As many, or all, in their order.
    """
    found: list[Candidate] = []
    for candidate in ranked:
        if not any(alike(candidate, other, space.settings) for other in found):
            found.append(candidate)
    others = [candidate for candidate in ranked if candidate not in found]
    chosen = [*found, *others][:count]
    return [candidate for candidate in ranked if candidate in chosen]


def alike(one: Candidate, other: Candidate, settings: Sequence[Setting]) -> bool:
    """Whether two candidates differ too little for their trainings to tell which is better.

    Args:
        one: A candidate.
        other: Another one.
        settings: What they can have been set to.
    """
    mine, its = dict(one.settings), dict(other.settings)
    apart = (abs(setting.place(mine[setting.name]) - setting.place(its[setting.name])) for setting in settings)
    return max(apart, default=0.0) <= _NEAR and _shared(one.design, other.design) >= _SHARED


def _shared(one: Design, other: Design) -> float:
    """The part of two designs that both place, by sizes (the weighted index of Jaccard)."""
    mine, its = ({(p.method, p.block): p.size or 1 for p in design.placements} for design in (one, other))
    places = mine.keys() | its.keys()
    both = sum(min(mine.get(place, 0), its.get(place, 0)) for place in places)
    return both / sum(max(mine.get(place, 0), its.get(place, 0)) for place in places) if places else 1.0


def unlike(items: Sequence[T], methods: Callable[[T], Collection[str]], count: int) -> list[T]:
    """The first ones that share no method, then ones that share not all, and then any, until there are enough.

    Args:
        items: In the order in which they are taken, each at most once.
        methods: Those of an item.
        count: How many are wanted.
    """
    found, taken = list[T](), list[set[str]]()
    for alike in (lambda one, other: bool(one & other), lambda one, other: one == other, lambda one, other: False):
        for item in items:
            own = {*methods(item)}
            if item not in found and not any(alike(own, other) for other in taken):
                found.append(item)
                taken.append(own)
    return found[:count]


def vary(
    parents: Sequence[Candidate],
    count: int,
    space: Space,
    budget: Budget,
    rng: np.random.Generator,
    avoid: Collection[str] = (),
) -> list[Candidate]:
    """New candidates near the parents, in turns: other settings, another design of the same methods, a crossing.

    A child costs no less than its parent where steps within the budget lead there: what is taken away at one place is
    put in at others, since designs that shrink at every turn are no fair trial of another arrangement.

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
    movable = [setting for setting in space.settings if setting.options is None or len(setting.options) > 1]
    for number in numbers():
        if number >= tries:
            return
        if not parents:
            yield space.sample(rng, budget)
            continue
        way, place = divmod(number, len(parents))
        parent = parents[place]
        if way % 2 == 0 and movable:
            yield _moved(parent, movable, rng)
        elif way % 4 == 3 and len(parents) > 1:
            other = parents[(place + 1 + int(rng.integers(len(parents) - 1))) % len(parents)]
            own = _of_methods(space, {*parent.design.by_method, *other.design.by_method})
            yield own.crossover(parent, other, rng, budget, by="method", least=_cost(parent, budget))
        else:
            yield _redesigned(parent, space, budget, rng)


def _moved(parent: Candidate, movable: Sequence[Setting], rng: np.random.Generator) -> Candidate:
    """The same design with one of the settings moved; the learning rate only down.

    Short trainings flatter high rates, and what is varied was picked by them: rates that move both ways drift upwards.
    """
    setting = movable[int(rng.integers(len(movable)))]
    old = dict(parent.settings)[setting.name]
    new = setting.step(old, rng)
    if setting.name == LR and new > old:
        new = old**2 / new
    return parent.with_settings({setting.name: setting.nearest(new)})


def _redesigned(parent: Candidate, space: Space, budget: Budget, rng: np.random.Generator) -> Candidate:
    """Another design, of the parent's methods."""
    own = _of_methods(space, set(parent.design.by_method))
    return own.mutate(parent, rng, budget, least=_cost(parent, budget))


def _of_methods(space: Space, methods: set[str]) -> Space:
    """The space of some methods and of those that cannot be absent; all of it where that would leave nothing."""
    kept = methods | {d.method for d in space.dimensions if d.sizes[0]}
    if not kept:
        return space
    return dataclasses.replace(
        space,
        dimensions=tuple(d for d in space.dimensions if d.method in kept),
        rules=tuple(rule for rule in space.rules if rule.method in kept),
    )


def _cost(parent: Candidate, budget: Budget) -> int:
    return 0 if budget.cost is None else budget.cost(parent.design)
