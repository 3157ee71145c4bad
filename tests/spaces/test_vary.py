from __future__ import annotations

from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from space_cases import NOAH, NOAH_DEPTH, Case, cases, cost, quick

from petlas.petl.design import Design, Placement
from petlas.spaces import Budget, Space, SpaceError
from petlas.spaces.draw import sample_design
from petlas.spaces.vary import cross_designs, mutate_design

SEEDS = st.integers(0, 2**32)


@quick
@given(cases(), SEEDS, st.floats(0, 1))
def test_mutation_stays_within_and_changes_whenever_it_can(case: Case, seed: int, probability: float):
    rng, keys = np.random.default_rng(seed), {design.key for design in case.feasible}
    for design in case.feasible[:: max(1, len(case.feasible) // 5)]:
        mutant = mutate_design(case.space, design, rng, case.budget, probability=probability)
        assert mutant.key in keys
        assert (mutant != design) == (len(case.feasible) > 1)


@pytest.mark.parametrize("case", [NOAH, NOAH_DEPTH])
def test_mutation_reaches_every_size_from_every_size(case: Case):
    """NOAH's own code never changes a size that is there."""
    rng, space, moves = np.random.default_rng(0), case.space, set()
    design = sample_design(space, rng, Budget())
    for _ in range(1500):
        mutant = mutate_design(space, design, rng, Budget())
        pairs = zip(space.variables, space.point(design), space.point(mutant), strict=True)
        moves |= {(variable.name, old, new) for variable, old, new in pairs if old != new}
        design = mutant
    for variable in space.dimensions:
        always = bool(space.rules) and variable.block in (0, 1, 2)  # Below the least depth there is no size 0.
        sizes = range(int(always), 4)
        assert {(variable.name, a, b) for a in sizes for b in sizes if a != b} <= moves
    for rule in space.rules:
        assert {(rule.name, a, b) for a in range(4) for b in range(4) if a != b} <= moves


def test_mutation_at_the_budget_moves_parameters_from_one_place_to_others():
    space = NOAH.space
    design = space.design([1, 2, 1] * 12)
    rng, budget = np.random.default_rng(0), Budget(cost(design), cost)
    mutants = [mutate_design(space, design, rng, budget, probability=0) for _ in range(100)]
    assert all(mutant != design and cost(mutant) <= cost(design) for mutant in mutants)
    grown = [m for m in mutants if any(a > b for a, b in zip(space.choices(m), space.choices(design), strict=True))]
    assert 30 < len(grown) < 70


def test_the_only_other_design_is_found_among_many_places():
    methods = {"vpt": {"blocks": [0], "sizes": [0, 1]}, "lora": {"blocks": "all", "sizes": [0, 1, 5, 10]}}
    space, budget = Space.from_dict({"methods": methods}, 12), Budget(5, cost)
    for seed in range(20):
        mutant = mutate_design(space, space.smallest, np.random.default_rng(seed), budget)
        assert str(mutant) == "vpt 1"


def test_the_probability_is_that_of_each_size():
    space, rng = NOAH.space, np.random.default_rng(0)
    design = sample_design(space, rng, Budget())
    for probability, expected in ((0.0, 1.0), (0.2, 7.2), (0.5, 18.0)):
        changes = [
            sum(a != b for a, b in zip(space.choices(design), space.choices(mutant), strict=True))
            for mutant in (mutate_design(space, design, rng, Budget(), probability=probability) for _ in range(200))
        ]
        assert np.mean(changes) == pytest.approx(expected, rel=0.1)


def test_depth_has_its_own_probability():
    space, rng = NOAH_DEPTH.space, np.random.default_rng(0)
    design = sample_design(space, rng, Budget())
    mutants = [mutate_design(space, design, rng, Budget(), probability=0.2, depth_probability=0) for _ in range(50)]
    assert {space.point(mutant)[:3] for mutant in mutants} == {space.point(design)[:3]}
    mutants = [mutate_design(space, design, rng, Budget(), probability=0, depth_probability=0.4) for _ in range(300)]
    depths = np.array([space.point(mutant)[:3] for mutant in mutants])
    assert np.mean(depths != space.point(design)[:3]) == pytest.approx(0.4, abs=0.06)


@quick
@given(cases(), SEEDS, st.sampled_from(["dimension", "method", "block"]))
def test_crossover_stays_within_the_space_and_the_budget(case: Case, seed: int, by):
    rng, keys = np.random.default_rng(seed), {design.key for design in case.feasible}
    for _ in range(5):
        a, b = (case.feasible[i] for i in rng.integers(len(case.feasible), size=2))
        child = cross_designs(case.space, a, b, rng, case.budget, by=by)
        assert child.key in keys
        if case.budget.limit is None:
            read = case.space.choices if by == "block" else case.space.point  # A new depth may come of two.
            genes = zip(read(a), read(b), read(child), strict=True)
            assert all(c in (x, y) for x, y, c in genes)


def test_crossover_by_method_takes_whole_vectors_and_by_dimension_mixes_them():
    for case in (NOAH, NOAH_DEPTH):
        space, rng = case.space, np.random.default_rng(0)
        a, b = sample_design(space, rng, Budget()), sample_design(space, rng, Budget())
        inherited = Counter()
        for _ in range(100):
            child = cross_designs(space, a, b, rng, Budget(), by="method")
            assert all(child.by_method[m] in (a.by_method[m], b.by_method[m]) for m in child.by_method)
            inherited.update(m for m in child.by_method if child.by_method[m] == a.by_method[m])
        assert all(30 < inherited[method] < 70 for method in ("vpt", "lora", "adapter"))
        mixed = [cross_designs(space, a, b, rng, Budget()) for _ in range(20)]
        for child in mixed:
            genes = zip(space.point(a), space.point(b), space.point(child), strict=True)
            assert all(c in (x, y) for x, y, c in genes)
        assert any(m.by_method["lora"] not in (a.by_method["lora"], b.by_method["lora"]) for m in mixed)
    with pytest.raises(SpaceError, match="one of dimension, method, block, got by='layer'"):
        cross_designs(NOAH.space, a, b, rng, Budget(), by="layer")  # type: ignore[arg-type]


def test_crossover_by_block_takes_the_first_blocks_from_one_parent_and_the_rest_from_the_other():
    for case in (NOAH, NOAH_DEPTH):
        space, rng = case.space, np.random.default_rng(1)
        a, b = sample_design(space, rng, Budget()), sample_design(space, rng, Budget())
        expected = set()
        for (first, second), cut in product(permutations([a, b]), range(1, 12)):
            child: list[Placement] = []
            for method in ("vpt", "lora", "adapter"):
                early, late = ({p.block: p for p in d.by_method.get(method, ())} for d in (first, second))
                depth = max(len(late), *(min(d for d in rule.depths if d >= cut) for rule in space.rules[:1]), 0)
                if space.rules and len(early) < cut:
                    depth = len(early)
                vector = [early if block < cut or (space.rules and block not in late) else late for block in range(12)]
                reach = depth if space.rules else 12
                child += [vector[block][block] for block in range(reach) if block in vector[block]]
            expected.add(Design.of(child))
        children = {cross_designs(space, a, b, rng, Budget(), by="block") for _ in range(300)}
        assert children == expected


def test_crossover_by_block_keeps_what_acts_before_the_cut_under_a_budget():
    space, kept = NOAH.space, 0
    a, b = space.design([2] * 36), space.design([1] * 36)
    limit = cost(space.design(([2] * 6 + [0] * 6) * 3))
    for seed in range(40):
        free, tight = (
            cross_designs(space, a, b, np.random.default_rng(seed), budget, by="block")
            for budget in (Budget(), Budget(limit, cost))
        )
        cut = sum(p.size == free.placements[0].size for p in free.by_method["lora"])
        start = [[p for p in design.placements if p.block is not None and p.block < cut] for design in (free, tight)]
        if cost(Design.of(start[0])) <= limit < cost(free):
            assert start[0] == start[1]
            kept += 1
        assert cost(tight) <= limit
    assert kept > 5


def test_what_is_everywhere_comes_with_the_first_blocks():
    methods = {"lora": {"blocks": "all", "sizes": [0, 1, 5]}, "bitfit": {"blocks": "backbone"}}
    space, rng = Space.from_dict({"methods": methods}, 4), np.random.default_rng(0)
    a, b = space.design([1, 1, 1, 1, 1]), space.design([2, 2, 2, 2, 0])
    children = {space.choices(cross_designs(space, a, b, rng, Budget(), by="block")) for _ in range(100)}
    assert {(child[0], child[-1]) for child in children} == {(1, 1), (2, 0)}
    assert (1, 2, 2, 2, 1) in children
    alone = Space.from_dict({"methods": {"lora": {"blocks": [2], "sizes": [1, 5]}}}, 4)
    assert cross_designs(alone, alone.largest, alone.largest, rng, Budget(), by="block") == alone.largest


def test_a_space_of_one_design_has_no_mutant():
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [4]}}}, 2)
    rng = np.random.default_rng(0)
    assert mutate_design(space, space.smallest, rng, Budget()) == space.smallest


@quick
@given(cases(), SEEDS)
def test_late_mutation_stays_within_and_changes_whenever_it_can(case: Case, seed: int):
    rng, keys = np.random.default_rng(seed), {design.key for design in case.feasible}
    for design in case.feasible[:: max(1, len(case.feasible) // 5)]:
        mutant = mutate_design(case.space, design, rng, case.budget, late=True)
        assert mutant.key in keys
        assert (mutant != design) == (len(case.feasible) > 1)


def test_late_mutants_share_about_half_of_the_blocks_with_their_parent():
    space = Space.from_dict({"methods": {m: {"blocks": "all", "sizes": [0, 1, 5, 10]} for m in ("a", "b", "c")}}, 12)
    rng = np.random.default_rng(0)

    def shared(late: bool) -> float:
        same = []
        for _ in range(200):
            parent = sample_design(space, rng, Budget())
            child = mutate_design(space, parent, rng, Budget(), late=late)
            changed = {p.block for p in set(parent.placements) ^ set(child.placements)}
            same.append(min(block for block in changed if block is not None))
        return float(np.mean(same)) / 12

    assert shared(False) < 0.2
    assert 0.4 < shared(True) < 0.65
