from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from space_cases import NOAH, NOAH_DEPTH, Case, cases, cost, quick

from petlas.petl.design import Design
from petlas.spaces import Budget, Space, SpaceError
from petlas.spaces.draw import enlarge, list_designs, repair, sample_design


def chi_square(counts: Counter[str], expected: dict[str, float]) -> float:
    assert counts.keys() <= expected.keys()
    return sum((counts[key] - wanted) ** 2 / wanted for key, wanted in expected.items())


def limit_of_chi_square(freedom: int) -> float:
    """About the 99.99% quantile, by Wilson and Hilferty."""
    return float(freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3)


@quick
@given(cases(), st.integers(0, 2**32))
def test_samples_are_in_the_space_and_within_the_budget(case: Case, seed: int):
    keys = {design.key for design in case.feasible}
    rng = np.random.default_rng(seed)
    assert {sample_design(case.space, rng, case.budget).key for _ in range(5)} <= keys


@quick
@given(cases())
def test_the_designs_within_a_budget_are_all_enumerated_near_ones_first(case: Case):
    for near in (None, case.feasible[-1]):
        found = list(list_designs(case.space, case.budget, near))
        assert found[0] == (near or case.space.smallest)
        assert sorted(d.key for d in found) == sorted(d.key for d in case.feasible)


@quick
@given(cases(), st.integers(0, 2**32))
def test_repair_shrinks_no_further_than_its_last_step(case: Case, seed: int):
    space, rng = case.space, np.random.default_rng(seed)
    for design in case.every:
        before = space.point(design)
        after = repair(space, before, rng, case.budget)
        assert case.budget.allows(space.at(after))
        assert all(new <= old for new, old in zip(after, before, strict=True))
        assert (tuple(after) == before) == case.budget.allows(design)


@quick
@given(cases(), st.integers(0, 2**32))
def test_what_is_enlarged_costs_enough_or_has_no_step_left_and_stays_in_the_space(case: Case, seed: int):
    rng = np.random.default_rng(seed)
    budget = Budget(max(cost(design) for design in case.feasible), cost)
    start = list(case.space.point(case.feasible[int(rng.integers(len(case.feasible)))]))
    least = cost(case.feasible[int(rng.integers(len(case.feasible)))])
    after = enlarge(case.space, start, rng, budget, least)
    assert case.space.at(after) in case.space
    assert cost(case.space.at(start)) <= cost(case.space.at(after)) <= budget.limit
    if cost(case.space.at(start)) >= least:
        assert after == start


def test_enlarging_stops_where_it_is_enough_and_spares_what_it_is_told():
    space = Space.from_dict({"methods": {"lora": {"blocks": [0, 1], "sizes": [0, 1, 2, 4]}}}, 2)
    budget = Budget(100, lambda design: sum(p.size or 0 for p in design.placements))
    rng = np.random.default_rng(0)
    assert enlarge(space, [0, 3], rng, budget, 6, keep={1}) == [2, 3]
    assert enlarge(space, [1, 1], rng, budget, 6, keep={0}) == [2, 3]
    assert enlarge(space, [1, 1], rng, Budget(), 6) == [1, 1]


def test_repair_takes_as_few_steps_as_it_can_and_spares_what_it_is_told():
    methods = {"lora": {"blocks": "all", "sizes": list(range(10))}}
    rng, one, two = np.random.default_rng(0), *(Space.from_dict({"methods": methods}, depth) for depth in (1, 2))
    for size in range(10):
        budget = Budget(cost(one.design([size])), cost)
        assert repair(one, [9], rng, budget) == [size]
        assert repair(two, [size, 9], rng, budget, keep={0}) == [size, 0]


def test_samples_are_uniform_without_a_binding_budget():
    case = Case({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 5]}, "ssf": {"blocks": [0, 1]}}}, 2)
    rng = np.random.default_rng(0)
    for budget in (Budget(), Budget(cost(case.space.largest), cost)):
        counts = Counter(sample_design(case.space, rng, budget).key for _ in range(3600))
        assert chi_square(counts, {d.key: 3600 / len(case.every) for d in case.every}) < limit_of_chi_square(35)


def test_a_depth_rule_draws_the_depth_first():
    case = Case({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 5]}}, "depth": [1, 2, 4]}, 4)
    rng = np.random.default_rng(0)
    counts = Counter(sample_design(case.space, rng, Budget()).key for _ in range(6000))
    expected = {d.key: 6000 / 3 / 2 ** len(d.placements) for d in case.every}
    assert chi_square(counts, expected) < limit_of_chi_square(len(expected) - 1)


def test_a_tight_budget_keeps_the_distribution_apart_from_its_bound_and_does_not_collapse():
    case = Case({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 3]}}}, 5, share=0.12)
    rng = np.random.default_rng(0)
    assert len(case.feasible) < 0.03 * len(case.every)
    counts = Counter(sample_design(case.space, rng, case.budget).key for _ in range(2000))
    assert counts.keys() == {design.key for design in case.feasible}
    off = sum(abs(counts[design.key] / 2000 - 1 / len(case.feasible)) for design in case.feasible) / 2
    assert off < 0.15


@pytest.mark.parametrize("case", [NOAH, NOAH_DEPTH])
def test_a_tight_budget_over_many_blocks_is_used_and_found_in_few_cost_calls(case: Case):
    calls = 0

    def counted(design: Design) -> int:
        nonlocal calls
        calls += 1
        return cost(design)

    low, high = cost(case.space.smallest), cost(case.space.largest)
    limit = low + (high - low) // 10
    rng = np.random.default_rng(0)
    costs = [cost(sample_design(case.space, rng, Budget(limit, counted))) for _ in range(20)]
    assert all(low + (limit - low) / 4 < c <= limit for c in costs)
    assert calls < 20 * 120


def test_an_impossible_budget_is_refused_by_every_draw():
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [1, 2]}}}, 2)
    rng, budget = np.random.default_rng(0), Budget(15, cost)
    with pytest.raises(SpaceError, match="at least 16"):
        space.sample(rng, budget)
    with pytest.raises(SpaceError, match="at least 16"):
        next(space.designs(budget))
    with pytest.raises(SpaceError, match="at least 16"):
        space.mutate(space.smallest, rng, budget)
    with pytest.raises(SpaceError, match="at least 16"):
        space.project({}, rng, budget)
