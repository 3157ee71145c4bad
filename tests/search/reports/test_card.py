import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

import petlas
from petlas.search.config import RunConfig
from petlas.search.objectives import Metric
from petlas.search.reports.card import markdown, model_card
from petlas.search.selection import Pooled

ACCURACY = Metric("accuracy", paired=True)
OUTCOME: dict[str, Any] = {
    "design": {"backbone": "vit_mini_patch16_64", "placements": [{"method": "lora", "block": 0, "size": 1}]},
    "settings": {},
    "params": 12345,
    "val": 0.875,
    "test_mean": 0.8333,
    "test_std": 0.0123,
    "seeds": [0, 1, 2],
}


def test_the_card_states_the_figures_and_the_design(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(train={"epochs": 17}), OUTCOME, ["cat", "dog"], ACCURACY)
    assert "\n---\n# digits: vit_mini_patch16_64 " in card
    for fact in ("| 12,345 |", "| 87.5% |", "test, 3 seed(s) | 83.3 ± 1.2% |", "| cat, dog |", "for 17 epochs"):
        assert fact in card
    assert "accuracy on the selection split" in card
    assert "read once" in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == OUTCOME["design"]


def test_one_seed_has_no_spread_and_a_design_file_no_selection_accuracy(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME | {"val": None, "seeds": [0]}, ["cat", "dog"], ACCURACY)
    assert "| not measured |" in card
    assert "| 83.3% |" in card
    assert "±" not in card


def test_what_is_believed_is_stated_as_such(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME | {"val_error": 0.0112, "believed": True}, ["cat"], ACCURACY)
    sure = "standard error 1.1 points, by all trainings on all folds together"
    assert f"| accuracy believed after the search | 87.5% ({sure}) |" in card
    assert "selected on folds of train and val" in card
    assert "87.5% (standard error 1.1 points) |" in model_card(
        make(), OUTCOME | {"val_error": 0.0112}, ["cat"], ACCURACY
    )


def test_of_many_classes_the_first_are_named(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME, [f"class{i}" for i in range(100)], ACCURACY)
    assert "class19, ... (100 in all)" in card
    assert "class20" not in card


def test_settings_folds_and_the_metric_are_stated(make: Callable[..., RunConfig]) -> None:
    outcome = OUTCOME | {"settings": {"lr": 0.003}}
    pooled = Pooled(0.85, 0.0113, 1000)
    card = model_card(make(), outcome, ["cat"], Metric("mAP"), pooled=pooled)
    for fact in (
        "| mAP on the selection split | 87.5% |",
        "| mAP over all folds | 85.0% (standard error 1.1 points on 1,000 images) |",
        "| mAP on test, 3 seed(s) | 83.3 ± 1.2% |",
        "| settings | lr 0.003 |",
        "selected on folds of train and val",
    ):
        assert fact in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])["settings"] == {"lr": 0.003}


def test_what_it_was_made_with_is_stated(make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["petlas", "retrain", "runs/x"])
    card = model_card(make(seed=3, task={"name": "digits", "split_seed": 5}), OUTCOME, ["cat"], ACCURACY)
    for fact in (
        f"petlas {petlas.__version__}",
        "| command | petlas retrain runs/x |",
        "| seed of the search | 3 |",
        "| seeds of the retraining | 0, 1, 2 |",
        "set aside | 5 |",
    ):
        assert fact in card


def test_that_the_test_split_was_read_more_than_once_is_said(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME, ["cat"], ACCURACY, readings=2)
    assert "read 2 times" in card
    assert "read once" not in card


def test_names_are_data_and_no_markup() -> None:
    assert markdown("a|b *c* <script> [x](y) `z`") == r"a\|b \*c\* \<script\> \[x\](y) \`z\`"
    assert markdown("snake_case _a_ a\nb") == r"snake_case \_a\_ a\\nb"
    assert markdown("# title") == r"\# title"
    assert markdown("日本 & é") == r"日本 \& é"


def test_a_class_with_marks_leaves_the_table_whole(make: Callable[..., RunConfig]) -> None:
    card = model_card(make(), OUTCOME, ["a|b", "c\nd"], ACCURACY)
    (line,) = [line for line in card.splitlines() if line.startswith("| classes |")]
    assert line.replace("\\|", "").count("|") == 3


def test_the_hub_and_people_read_licence_versions_and_training_settings(make: Callable[..., RunConfig]) -> None:
    outcome = OUTCOME | {"settings": {"lr": 0.003}}
    card = model_card(make(train={"epochs": 17}), outcome, ["cat"], ACCURACY, licence="apache-2.0")
    _, front, text = card.split("---\n", 2)
    read = yaml.safe_load(front)
    assert (read["license"], read["base_model"]) == ("apache-2.0", "timm/vit_mini_patch16_64")
    assert read["pipeline_tag"] == "image-classification"
    assert read["tags"] == ["petlas", "timm", "lora"]
    (result,) = read["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.8333}]
    assert "| epochs | 17 |" in text
    assert "| lr | 0.003 |" in text
    assert "| weight_decay | " in text
    unknown = yaml.safe_load(model_card(make(), OUTCOME, ["cat"], ACCURACY).split("---\n", 2)[1])
    assert unknown["license"] == "other"
    assert unknown["license_name"]
    assert "base_model" not in unknown
