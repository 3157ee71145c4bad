import numpy as np

from petlas.petl import MINI, count_params, shape_by_name
from petlas.search.strategies.recipes import Recipe
from petlas.search.strategies.variation import vary
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


def test_the_same_seed_gives_the_same_children() -> None:
    assert children(6) == children(6)
    assert children(6) != children(6, seed=1)


def test_a_small_space_has_as_many_as_there_are_and_without_parents_they_are_drawn() -> None:
    small = Space.from_dict({"methods": {"ssf": {"blocks": "backbone"}}}, SHAPE.depth)
    rng = np.random.default_rng(0)
    assert {str(child.design) for child in vary([], 5, small, Budget(), rng)} == {"linear", "ssf"}
    (parent,) = vary([], 1, small, Budget(), rng)
    (other,) = vary([parent], 5, small, Budget(), rng, {parent.key})
    assert other != parent
