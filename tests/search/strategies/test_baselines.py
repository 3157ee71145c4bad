from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlas.petl import shape_by_name
from petlas.petl.check import count_params
from petlas.petl.design import Design
from petlas.petl.methods import METHODS, get_method
from petlas.search.strategies.baselines import MAX_SIZE, baseline, baselines
from petlas.spaces import Limit

SHAPE = shape_by_name("vit_mini_patch16_64", 32)


@cache
def cost(design: Design) -> int:
    return count_params(design, SHAPE)


def sizes(design: Design) -> set[int | None]:
    return {placement.size for placement in design.placements}


def test_without_a_budget_the_known_strong_methods_stand_alone_at_their_default_sizes() -> None:
    found = baselines(SHAPE, None, cost)
    assert set(found) == {"linear", "bitfit", "lora", "ssf", "adapter", "adaptformer", "vpt"}
    for name, design in found.items():
        assert set(design.by_method) == ({name} if name != "linear" else set())
        assert sizes(design) <= {get_method(name).default_size}
        assert design.backbone == SHAPE.name


@given(st.integers(0, 120_000))
@settings(deadline=None)
def test_under_a_budget_each_is_as_large_as_fits(limit: int) -> None:
    found = baselines(SHAPE, limit, cost)
    for name in METHODS:
        method = get_method(name)
        if not method.known_strong:
            assert name not in found
            continue
        if name not in found:
            least = None if method.default_size is None else 1
            assert cost(Design.of(method.baseline(SHAPE, least), SHAPE.name)) > limit
            continue
        assert cost(found[name]) <= limit
        if method.default_size is not None:
            (size,) = sizes(found[name])
            assert size is not None
            larger = Design.of(method.baseline(SHAPE, size + 1), SHAPE.name)
            assert size == MAX_SIZE or cost(larger) > limit


def test_a_budget_of_nothing_leaves_the_head_alone() -> None:
    found = baselines(SHAPE, 0, cost)
    assert [name for name, design in found.items() if design.placements] == []
    assert found["linear"] == Design((), SHAPE.name)


def test_a_method_that_does_not_fit_at_all_gives_none() -> None:
    assert baseline("lora", SHAPE, 1, cost) is None
    assert baseline("bitfit", SHAPE, 1, cost) is None


@pytest.mark.parametrize("limit", [None, 5_000, 50_000])
def test_no_two_baselines_are_the_same_design(limit: int | None) -> None:
    keys = [design.key for design in baselines(SHAPE, limit, cost).values()]
    assert len(keys) == len(set(keys))


def test_further_limits_bound_them_too() -> None:
    """As with a budget of parameters, each is as large as fits, and what has no size stays or goes."""
    limit = Limit("flops", 60.0, lambda design: 1.0 + sum(p.size or 0 for p in design.placements))
    found = baselines(SHAPE, None, cost, [limit])
    assert sizes(found["lora"]) == {9}
    assert baselines(SHAPE, None, cost, [Limit("flops", 0.5, limit.cost)]) == {}
