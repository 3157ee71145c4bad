from collections.abc import Callable
from typing import Any

import yaml

from petlas.search.card import model_card
from petlas.search.config import RunConfig

OUTCOME: dict[str, Any] = {
    "design": {"backbone": "vit_mini_patch16_64", "placements": [{"method": "lora", "block": 0, "size": 1}]},
    "params": 12345,
    "val": 0.875,
    "test_mean": 0.8333,
    "test_std": 0.0123,
    "seeds": [0, 1, 2],
}


def test_the_card_states_the_figures_and_the_design(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(train={"epochs": 17}), OUTCOME, ["cat", "dog"])
    assert card.startswith("# digits: vit_mini_patch16_64 ")
    for fact in ("| 12,345 |", "| 87.5% |", "test, 3 seed(s) | 83.3 ± 1.2% |", "| cat, dog |", "for 17 epochs"):
        assert fact in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == OUTCOME["design"]


def test_one_seed_has_no_spread_and_a_design_file_no_selection_accuracy(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME | {"val": None, "seeds": [0]}, ["cat", "dog"])
    assert "| not measured |" in card
    assert "| 83.3% |" in card
    assert "±" not in card


def test_of_many_classes_the_first_are_named(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME, [f"class{i}" for i in range(100)])
    assert "class19, ... (100 in all)" in card
    assert "class20" not in card
