"""The known strong designs: each method alone, as large as the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from petlas.petl.design import Design, DesignError
from petlas.petl.methods import METHODS, get_method
from petlas.petl.shape import BackboneShape
from petlas.spaces import Limit

MAX_SIZE = 64
"""Larger modules are not in use for small data sets."""


def baseline(
    name: str,
    shape: BackboneShape,
    limit: int | None,
    cost: Callable[[Design], int],
    further: Sequence[Limit] = (),
) -> Design | None:
    """The usual design of one method: of its default size, or under a budget of the largest size that fits.

    Args:
        name: The method.
        shape: The backbone's sizes.
        limit: The parameter budget; None for none.
        cost: Parameters of a design.
        further: Limits of other costs.

    Returns:
        The design, or None if not even the smallest fits or the method does not suit the backbone.
    """
    method = get_method(name)
    sizes: Iterable[int | None] = (method.default_size,)
    if method.default_size is not None and (limit is not None or further):
        sizes = range(MAX_SIZE, 0, -1)
    for size in sizes:
        design = Design.of(method.baseline(shape, size), shape.name)
        with suppress(DesignError):  # a smaller size may suit the backbone
            within = limit is None or cost(design) <= limit
            if within and all(other.cost(design) <= other.most for other in further):
                return design
    return None


def baselines(
    shape: BackboneShape, limit: int | None, cost: Callable[[Design], int], further: Sequence[Limit] = ()
) -> dict[str, Design]:
    """The baselines of the methods known to be strong, where they fit the budget.

    Args:
        shape: The backbone's sizes.
        limit: The parameter budget; None for none.
        cost: Parameters of a design.
        further: Limits of other costs.
    """
    found = {name: baseline(name, shape, limit, cost, further) for name in METHODS if get_method(name).known_strong}
    return {name: design for name, design in found.items() if design is not None}
