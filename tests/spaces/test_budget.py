from __future__ import annotations

import pytest
from space_cases import NOAH, cost

from petlas.petl.design import Design
from petlas.spaces import Budget, SpaceError


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
