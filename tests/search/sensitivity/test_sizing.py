import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlas.petl import Placement, count_params, shape_by_name
from petlas.search.sensitivity import proportional_design, pruned, sensitivity_at
from petlas.spaces import Budget, Space, SpaceError, check_space

SHAPE = shape_by_name("vit_tiny_patch16_224")
OPERATIONS = ("norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2")
EVERY = {"blocks": "all", "sizes": list(range(65))}


def cost(design):
    return count_params(design, SHAPE)


def sites(*values):
    """Blocks with the same sensitivity for each operation."""
    return [dict.fromkeys(OPERATIONS, value) for value in values]


def space_of(methods, **more):
    return Space.from_dict({"methods": methods} | more, SHAPE.depth)


def sizes_of(design, method):
    sizes = {p.block: p.size for p in design.by_method.get(method, ())}
    return [sizes.get(block, 0) for block in range(SHAPE.depth)]


def test_sizes_are_in_proportion_to_the_sensitivity():
    values = np.arange(1.0, 13.0)
    design = proportional_design(space_of({"adapter": EVERY}), Budget(40_000, cost), sites(*values))
    sizes = np.array(sizes_of(design, "adapter"))
    assert sizes.max() < 64
    assert abs(sizes / sizes.sum() - values / values.sum()).max() * sizes.sum() < 1


def test_equal_sensitivities_give_equal_sizes_as_large_as_fit():
    design = proportional_design(space_of({"lora": EVERY}), Budget(12 * 768 * 5, cost), sites(*[1.0] * 12))
    assert sizes_of(design, "lora") == [5] * 12


def test_each_method_goes_by_the_operations_that_it_touches():
    at = [dict.fromkeys(OPERATIONS, 0.0) for _ in range(12)]
    at[3]["fc2"], at[5]["v"], at[7]["q"] = 1.0, 1.0, 1.0
    space = space_of({"lora": {"blocks": "all", "sizes": [0, 4]}, "adapter": {"blocks": "all", "sizes": [0, 4]}})
    design = proportional_design(space, Budget(8_000, cost), at)
    assert {p.block for p in design.by_method["adapter"]} == {3}
    assert {p.block for p in design.by_method["lora"]} == {5, 7}


@pytest.mark.parametrize(
    ("method", "operations"),
    [
        ("adapter", {"fc2"}),
        ("vpt", {"q", "k", "v"}),
        ("prefix", {"k", "v"}),
        ("ln_tune", {"norm1", "norm2"}),
        ("u_tuning", {"q", "k", "v", "proj"}),
        ("pfeiffer", set(OPERATIONS)),
        ("lora", {"q", "v"}),
        ("linear_adapter", {"q", "k", "v", "proj", "fc1", "fc2"}),
        ("houlsby", {"proj", "fc2"}),
    ],
)
def test_the_operations_next_to_the_sites_of_a_method(method, operations):
    at = [{operation: 2.0**i for i, operation in enumerate(OPERATIONS)} for _ in range(12)]
    expected = sum(at[2][operation] for operation in operations)
    assert sensitivity_at(at, Placement(method, 2)) == expected
    assert sensitivity_at(at, Placement(method)) == 12 * expected


def test_the_targets_of_a_placement_say_which_operations_it_touches():
    at = [{operation: 2.0**i for i, operation in enumerate(OPERATIONS)} for _ in range(12)]
    assert sensitivity_at(at, Placement("lora", 0, 8, {"targets": "fc1,k"})) == at[0]["fc1"] + at[0]["k"]


METHODS = st.dictionaries(
    st.sampled_from(["lora", "adapter", "vpt", "ssf"]),
    st.lists(st.integers(0, 20), min_size=2, max_size=4, unique=True).map(sorted),
    min_size=1,
)


@given(METHODS, st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_design_is_in_the_space_within_the_budget_and_nothing_more_fits(methods, seed, share, deep):
    spec = {m: {"blocks": "all"} | ({} if m == "ssf" else {"sizes": sizes}) for m, sizes in methods.items()}
    rule = {m: [3, 12] for m, sizes in methods.items() if m != "ssf" and sizes[0] == 0} if deep else {}
    space = space_of(spec, **({"depth": rule} if rule else {}))
    rng = np.random.default_rng(seed)
    at = [dict(zip(OPERATIONS, 10 ** rng.normal(size=8), strict=True)) for _ in range(12)]
    least, most = cost(space.smallest), cost(space.largest)
    budget = Budget(int(least + share * (most - least)), cost)
    design = proportional_design(space, budget, at)
    assert design in space and budget.allows(design)
    point = space.point(design)
    for i in range(len(space.rules), len(point)):
        if point[i] < space.bounds(point, i)[1]:
            larger = list(point)
            larger[i] += 1
            assert not budget.allows(space.at(larger))


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(SpaceError, match="at least"):
        proportional_design(
            space_of({"lora": {"blocks": "all", "sizes": [4, 8]}}), Budget(10, cost), sites(*[1.0] * 12)
        )


def test_pruning_drops_the_least_sensitive_share_of_the_places():
    data = {"methods": {"lora": {"blocks": "all", "sizes": [0, 8]}, "bitfit": {"blocks": "backbone"}}, "prune": 0.5}
    values = [5.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 10.0, 0.5, 12.0]
    kept = pruned(data, sites(*values))
    assert kept["methods"]["lora"] == {"blocks": [2, 4, 6, 8, 9, 11], "sizes": [0, 8]}
    assert kept["methods"]["bitfit"] == {"blocks": "backbone"}
    assert not check_space(kept, depth=12)


def test_pruning_keeps_places_that_must_be_present():
    data = {"methods": {"lora": {"blocks": "all", "sizes": [4, 8]}}, "prune": 0.9}
    assert pruned(data, sites(*range(12)))["methods"]["lora"]["blocks"] == list(range(12))


def test_no_method_is_pruned_for_touching_few_weights():
    at = [dict.fromkeys(OPERATIONS, 1.0) for _ in range(12)]
    for block in at:
        block["norm1"] = block["norm2"] = 1e-6
    for block in (0, 1):
        at[block] = dict.fromkeys(OPERATIONS, 1e-9)
    data = {"methods": {m: {"blocks": "all", "sizes": [0, 2]} for m in ("adapter", "lora", "prefix")}, "prune": 6 / 36}
    kept = pruned(data, at)
    assert all(spec["blocks"] == list(range(2, 12)) for spec in kept["methods"].values())


def test_pruning_keeps_all_else_that_a_space_says():
    data = {"methods": {"lora": {"blocks": "all", "sizes": [0, 8]}}, "settings": {"lr": [1e-3, 1e-2]}, "prune": 0.5}
    kept = pruned(data, sites(*range(12)))
    assert kept.keys() == {"methods", "settings"}
    assert kept["settings"] == {"lr": [1e-3, 1e-2]}


def test_blocks_may_have_other_operations():
    at = [{"conv": 1.0}, {"q": 2.0, "fc2": 4.0}]
    assert sensitivity_at(at, Placement("adapter")) == 4
    assert sensitivity_at(at, Placement("pfeiffer", 0)) == 1
