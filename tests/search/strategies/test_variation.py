import numpy as np
import pytest

from petlas.petl import MINI, Design, Placement, count_params, shape_by_name
from petlas.search.strategies.recipes import Recipe
from petlas.search.strategies.variation import alike, distinct, unlike, vary
from petlas.spaces import Budget, Candidate, Space

SHAPE = shape_by_name(MINI, None)
METHODS = {
    "lora": {"blocks": "all", "sizes": [0, 1, 2, 4, 8]},
    "adapter": {"blocks": "all", "sizes": [0, 2, 8]},
    "ssf": {"blocks": "backbone"},
}
SPACE = Space.from_dict(
    {"methods": METHODS, "settings": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}}, SHAPE.depth, backbone=MINI
)
BUDGET = Budget(20_000, lambda design: count_params(design, SHAPE))


def parents() -> list[Candidate]:
    return [Recipe(((name, 1.0),)).candidate(SPACE, BUDGET, {"lr": 1e-3}) for name in ("lora", "adapter")]


def children(count: int, seed: int = 0) -> list[Candidate]:
    return vary(parents(), count, SPACE, BUDGET, np.random.default_rng(seed), {parents()[0].key})


def test_children_are_new_within_the_budget_and_near_their_parents() -> None:
    found = children(12)
    assert len({child.key for child in found} - {parent.key for parent in parents()}) == 12
    assert all(child in SPACE and BUDGET.allows(child.design) for child in found)
    methods = [frozenset(child.design.by_method) for child in found]
    assert {frozenset({"lora"}), frozenset({"adapter"})} <= set(methods)
    assert all("ssf" not in own for own in methods)
    assert [child.design for child in found[:2]] == [parent.design for parent in parents()]
    assert len({child.design for child in found}) > 4


def test_one_setting_is_moved_at_a_time_the_rate_down_and_others_both_ways() -> None:
    both = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "weight_decay": {"low": 1e-5, "high": 1e-1, "log": True}}
    space = Space.from_dict({"methods": METHODS, "settings": both}, SHAPE.depth, backbone=MINI)
    parent = Recipe((("lora", 1.0),)).candidate(space, BUDGET, {"lr": 3e-3, "weight_decay": 1e-3})
    found = vary([parent], 40, space, BUDGET, np.random.default_rng(0), {parent.key})
    moved = [dict(child.settings) for child in found if child.design == parent.design]
    assert len(moved) > 10
    rates = [settings["lr"] for settings in moved if settings["weight_decay"] == pytest.approx(1e-3)]
    decays = [settings["weight_decay"] for settings in moved if settings["lr"] == pytest.approx(3e-3)]
    assert len(rates) + len(decays) == len(moved)
    assert all(1e-4 <= rate < 3e-3 for rate in rates)
    assert {decay > 1e-3 for decay in decays} == {True, False}


def test_unlike_ones_come_first_then_those_that_share_a_part_and_then_the_same() -> None:
    items = ["a", "a b", "a ", "b", "", "b a", "c d", "a"]
    assert unlike(items, str.split, 9) == ["a", "b", "", "c d", "a b", "a ", "b a"]
    assert unlike(items, str.split, 2) == ["a", "b"]


def test_the_same_seed_gives_the_same_children() -> None:
    assert children(6) == children(6)
    assert children(6) != children(6, seed=1)


def test_children_are_no_smaller_than_their_parents_where_the_budget_is_full() -> None:
    methods = {"lora": {"blocks": "all", "sizes": [*range(17)]}}
    fine = Space.from_dict({"methods": methods}, SHAPE.depth, backbone=MINI)
    parent = Recipe((("lora", 1.0),)).candidate(fine, BUDGET, {"lr": 1e-3})
    sizes = []
    for seed in range(8):
        found = vary([parent], 5, fine, BUDGET, np.random.default_rng(seed), {parent.key})
        sizes += [count_params(child.design, SHAPE) for child in found]
    assert count_params(parent.design, SHAPE) == 19_968
    assert min(sizes) >= 19_456  # one step of one block, at most, is left
    assert max(sizes) <= 20_000
    crossed = [child for child in children(40) if len(child.design.by_method) > 1]
    assert crossed
    assert min(count_params(child.design, SHAPE) for child in crossed) > 0.85 * 20_000


def test_candidates_are_alike_that_share_most_of_their_design_and_are_set_nearly_the_same() -> None:
    def lora(sizes: list[int], lr: float) -> Candidate:
        placed = (Placement("lora", block, size) for block, size in enumerate(sizes))
        return Candidate(Design.of(placed, MINI), (("lr", lr),))

    one = lora([4, 4, 4, 4, 4, 4], 5e-3)
    near, moved = lora([4, 4, 8, 4, 4, 4], 8e-3), lora([8, 8, 8, 1, 1, 1], 5e-3)
    slower, linear = lora([4, 4, 4, 4, 4, 4], 2e-3), Candidate(Design((), MINI), (("lr", 5e-3),))
    assert alike(one, near, SPACE.settings)  # factors count
    assert alike(linear, linear, SPACE.settings)
    assert not any(alike(one, other, SPACE.settings) for other in (moved, slower, linear))
    ranked = [one, near, slower, linear]
    assert distinct(ranked, 3, SPACE) == [one, slower, linear]
    assert distinct(ranked, 2, SPACE) == [one, slower]
    assert distinct(ranked, 4, SPACE) == ranked
    assert distinct([one, near], 2, SPACE) == [one, near]


def test_a_small_space_has_as_many_as_there_are_and_without_parents_they_are_drawn() -> None:
    small = Space.from_dict({"methods": {"ssf": {"blocks": "backbone"}}}, SHAPE.depth)
    rng = np.random.default_rng(0)
    assert {str(child.design) for child in vary([], 5, small, Budget(), rng)} == {"linear", "ssf"}
    (parent,) = vary([], 1, small, Budget(), rng)
    (other,) = vary([parent], 5, small, Budget(), rng, {parent.key})
    assert other != parent
