from __future__ import annotations

import pytest
from space_cases import NOAH, cost

from petlas.petl.design import Design, Placement
from petlas.spaces import Budget, Limit, SpaceError


def test_a_limit_is_inclusive_and_optional():
    design = NOAH.space.largest
    assert Budget().allows(design)
    assert Budget(None, cost).allows(design)
    assert Budget(cost(design), cost).allows(design)
    assert not Budget(cost(design) - 1, cost).allows(design)
    assert Budget(0, cost).allows(Design())


@pytest.mark.parametrize("limit", [-1, True, 1.5, "1"])
def test_a_limit_is_a_whole_number(limit: object):
    with pytest.raises(SpaceError, match="limit="):
        Budget(limit, cost)  # type: ignore[arg-type]


def test_a_limit_needs_a_cost():
    with pytest.raises(SpaceError, match="needs the cost"):
        Budget(5)


def test_further_limits_hold_beside_the_first() -> None:
    few, many = (Design.of([Placement("lora", block, 4) for block in range(n)]) for n in (1, 3))
    limit = Limit("flops", 2.5, lambda design: float(len(design.placements)))
    budget = Budget(further=(limit,))
    assert budget.allows(few)
    assert not budget.allows(many)
    assert not Budget(0, lambda design: 1, (limit,)).allows(few)
