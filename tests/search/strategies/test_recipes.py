from pathlib import Path

import pytest

import petlas.spaces
from petlas.petl import MINI, count_params, shape_by_name
from petlas.search.strategies.recipes import Recipe, portfolio
from petlas.spaces import Budget, Space, load_space

SPACES = Path(petlas.spaces.__file__).resolve().parent.parent / "configs" / "spaces"
SHAPE = shape_by_name(MINI, None)
METHODS = {
    "lora": {"blocks": "all", "sizes": [0, 1, 2, 4, 8]},
    "adapter": {"blocks": "2-5", "sizes": [0, 2, 8]},
    "ssf": {"blocks": "backbone"},
}
SETTINGS = {"lr": {"low": 1e-4, "high": 2e-2, "log": True}, "weight_decay": [0.0, 1e-2]}
USUAL = {"lr": 3e-3, "weight_decay": 1e-4}


def space(**more: object) -> Space:
    return Space.from_dict({"methods": METHODS, "settings": SETTINGS} | more, SHAPE.depth, backbone=MINI)


def budget(limit: int | None) -> Budget:
    return Budget(limit, lambda design: count_params(design, SHAPE))


def test_a_method_is_alike_at_all_its_places_and_as_large_as_its_share_allows() -> None:
    whole, half = (Recipe((("lora", share),)).design(space(), budget(round(12_500 / share))) for share in (1.0, 0.5))
    assert str(whole) == str(half) == "lora 4,4,4,4,4,4"
    assert count_params(whole, SHAPE) <= 12_500
    mixed = Recipe((("lora", 0.5), ("adapter", 0.5))).design(space(), budget(20_000))
    assert str(mixed) == "adapter -,-,8,8,8,8 | lora 2,2,2,4,4,4"
    assert mixed in space()


def test_what_coarse_sizes_leave_of_a_share_makes_the_last_blocks_larger() -> None:
    whole, half = (Recipe((("lora", share),)).design(space(), budget(20_000)) for share in (1.0, 0.5))
    assert str(whole) == "lora 4,4,4,8,8,8"
    assert str(half) == "lora 2,2,2,4,4,4"
    for design, limit in ((whole, 20_000), (half, 10_000)):
        assert 0.9 * limit < count_params(design, SHAPE) <= limit
    deep = Space.from_dict({"methods": {"lora": METHODS["lora"]}, "depth": [2, 4, 6]}, SHAPE.depth)
    assert str(Recipe((("lora", 1.0),)).design(deep, budget(7500))) == "lora 2,2,2,2,2,4"


def test_a_budget_too_small_for_all_places_gives_it_some_of_them() -> None:
    found = Recipe((("lora", 1.0),)).design(space(), budget(1500))
    assert 0 < count_params(found, SHAPE) <= 1500
    assert found in space()


def test_without_a_budget_a_method_has_its_usual_size_and_under_a_depth_rule_the_largest_depth() -> None:
    assert str(Recipe((("lora", 1.0),)).design(space(), budget(None))) == "lora 8,8,8,8,8,8"
    deep = Space.from_dict({"methods": {"lora": METHODS["lora"]}, "depth": [2, 4]}, SHAPE.depth)
    assert str(Recipe((("lora", 1.0),)).design(deep, budget(10**6))) == "lora 8,8,8,8"


def test_the_rate_is_a_factor_of_the_run_s_and_brought_to_what_the_space_allows() -> None:
    candidate = Recipe((("ssf", 1.0),), (("lr", 3.0),)).candidate(space(), budget(None), USUAL)
    assert dict(candidate.settings) == {"lr": pytest.approx(9e-3), "weight_decay": 0.0}
    assert candidate in space()
    fast = Recipe((), (("lr", 100.0), ("weight_decay", 1.0))).candidate(space(), budget(None), USUAL)
    assert dict(fast.settings) == {"lr": 2e-2, "weight_decay": 1e-2}
    assert str(fast.design) == "linear"


def test_a_recipe_is_plain_data_and_suits_spaces_that_have_its_methods() -> None:
    recipe = Recipe.from_dict({"methods": {"lora": 0.5, "vpt": 0.5}, "settings": {"lr": 3, "lr.vpt": 10}})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert not recipe.suits(space())
    assert Recipe(()).suits(space())


def test_the_portfolio_covers_every_method_of_a_space_whichever_it_is() -> None:
    exotic = Space.from_dict({"methods": {"hydra": {"blocks": "all", "sizes": [0, 2]}}}, SHAPE.depth)
    own = [recipe for recipe in portfolio(exotic) if recipe.suits(exotic)]
    assert [recipe.methods for recipe in own] == [{"hydra"}] * 3
    assert len({dict(recipe.settings)["lr"] for recipe in own}) == 3
    shipped = [recipe for recipe in portfolio(space()) if recipe.suits(space())]
    assert {name for recipe in shipped for name in recipe.methods} == METHODS.keys()


def test_a_backbone_that_was_recorded_has_a_portfolio_of_its_own() -> None:
    whole = load_space(SPACES / "strong.yaml", SHAPE.depth)
    own, dinov2, other = (
        [recipe.to_dict() for recipe in portfolio(whole, name)]
        for name in (MINI, "vit_small_patch14_dinov2.lvd142m", "vit_base_patch16_224.augreg_in21k")
    )
    assert other == [recipe.to_dict() for recipe in portfolio(whole)]
    assert own[0]["methods"] == {"convpass": 1.0}
    assert dinov2[0]["methods"] == {"lora": 1.0}
    assert other[0] not in (own[0], dinov2[0])


@pytest.mark.parametrize(
    ("space", "name"),
    [
        ("strong", MINI),
        ("strong_convnet", "convnext_atto"),
        ("strong_convnet", "tf_efficientnet_lite0"),
        ("strong_convnet", "resnet50_clip.openai"),
    ],
)
def test_the_strong_methods_that_are_shipped_fit_the_backbones_that_they_are_for(space: str, name: str) -> None:
    shape = shape_by_name(name, None)
    found = load_space(SPACES / f"{space}.yaml", shape.depth, backbone=shape.name, stages=shape.widths)
    limit = Budget(100_000, lambda design: count_params(design, shape))
    recipes = [recipe for recipe in portfolio(found) if recipe.suits(found)]
    assert frozenset().union(*(recipe.methods for recipe in recipes)) == {d.method for d in found.dimensions}
    assert all(0 <= count_params(recipe.design(found, limit), shape) <= 100_000 for recipe in recipes[:12])
    assert count_params(found.largest, shape) > 100_000
