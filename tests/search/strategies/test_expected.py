from pathlib import Path

import pytest

import petlas.spaces
from petlas.petl import MINI, shape_by_name
from petlas.search.strategies.expected import Recorded, expected
from petlas.search.strategies.recipes import linear, portfolio, shipped
from petlas.spaces import load_space

STRONG = Path(petlas.spaces.__file__).resolve().parent.parent / "configs" / "spaces" / "strong.yaml"
RECORDED = Recorded.of(
    [
        {"methods": ["convpass", "lora"], "worth": {3.0: 0.03}},
        {"methods": ["lora"], "worth": {1.0: 0.02, 10.0: 0.01}},
        {"methods": ["ssf"], "worth": {3.0: 0.0}},
        {"methods": [], "worth": {10.0: -0.06}},
    ],
    curve=0.1,
)


def worth(*methods: str, lr: float = 3.0) -> float:
    found = RECORDED.worth(methods, lr)
    assert found is not None
    return found


def test_a_candidate_is_worth_what_was_recorded_of_its_methods_at_its_rate() -> None:
    assert [worth("lora", "convpass"), worth("lora", lr=1.0), worth(lr=10.0)] == pytest.approx([0.03, 0.02, -0.06])
    assert worth("lora", lr=10**0.5) == pytest.approx(0.015)  # half way between two rates
    assert RECORDED.worth(["hydra"], 3.0) is None


def test_a_rate_beyond_those_that_were_recorded_is_worth_less_the_farther_it_is() -> None:
    assert worth("lora", lr=100.0) == pytest.approx(0.01 - 0.1)
    assert worth("lora", lr=0.01) == pytest.approx(0.02 - 0.1 * 4)
    assert worth("ssf", lr=30.0) == pytest.approx(worth("ssf", lr=0.3))  # as many times too high as too low


def test_methods_that_were_not_recorded_together_count_as_the_mean_of_those_that_have_some_of_them() -> None:
    assert worth("ssf", "convpass") == pytest.approx(fmean_of(worth("ssf"), worth("convpass", "lora")))


def fmean_of(*values: float) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("backbone", ["", MINI])
def test_of_every_strong_method_something_is_expected_on_its_backbone_or_on_each_that_was_recorded(
    backbone: str,
) -> None:
    recorded = [*shipped()["backbones"]]
    assert all(shape_by_name(name).name == name for name in recorded)  # as a run's workbench calls it
    for recipe in (linear(), *portfolio(load_space(STRONG, shape_by_name(MINI, None).depth), backbone)):
        lr = dict(recipe.settings)["lr"]
        found, everywhere = expected(recipe.methods, lr, backbone), expected(recipe.methods, lr)
        assert found is not None
        assert everywhere is not None
        assert len(everywhere) == len(recorded) > 1
        assert found == (everywhere[recorded.index(MINI)],) if backbone else everywhere
    assert expected(["hydra"], 3.0, backbone) is None
