import math

from petlas.search.objectives import Metric
from petlas.search.reports.text import (
    candidate_text,
    chosen_text,
    duration,
    error_text,
    measured,
    percent,
    shown,
    spread,
    standard_error,
    unit,
)

ACCURACY = Metric("accuracy", paired=True)
LOSS = Metric("loss", maximize=False, percent=False)


def test_accuracies_are_percent_and_nothing_is_a_dash() -> None:
    assert [percent(value) for value in (0.8766, 1, 0, None, float("nan"))] == ["87.7", "100.0", "0.0", "-", "-"]


def test_a_value_is_told_as_its_metric_says() -> None:
    assert [measured(ACCURACY, value) for value in (0.8766, None, math.nan)] == ["87.7", "-", "-"]
    assert measured(LOSS, 1.23456) == "1.235"
    assert (unit(ACCURACY), unit(LOSS)) == (" %", "")
    assert (spread(ACCURACY, 0.5, 0.0123, 2), spread(ACCURACY, 0.5, 0.0, 1)) == ("50.0 ± 1.2", "50.0")


def test_a_standard_error_is_told_where_it_follows_from_the_images() -> None:
    error = standard_error(ACCURACY, 0.9, 200)
    assert error_text(error, 200) == " (standard error 2.1 points on 200 images)"
    assert standard_error(ACCURACY, 0.9, None) is None
    assert standard_error(Metric("mAP"), 0.9, 200) is None
    assert error_text(None, 200) == error_text(math.nan, 200) == ""


def test_names_are_shown_as_they_are_but_for_what_no_terminal_shows() -> None:
    for name in ("a b", "[red]x[/]", ":smile:", "日本", "é", "👩\u200d🔬", "a\\b"):
        assert shown(name) == name
    assert shown("a\nb\tc\x1b[31m\udcff\u2028") == "a\\nb\\tc\\x1b[31m\\udcff\\u2028"


def test_a_candidate_is_told_with_its_settings() -> None:
    design = {"backbone": "b", "placements": [{"method": "lora", "block": 1, "size": 4}]}
    assert candidate_text(design, {}) == "lora -,4"
    assert candidate_text(design, {"lr": 0.003}) == "lora -,4 | lr 0.003"
    assert candidate_text({"placements": []}, {}) == "linear"
    assert candidate_text({}, {}) == ""


def test_seconds_are_told_in_the_unit_that_a_person_would_use() -> None:
    assert [duration(s) for s in (5, 119, 120, 7_200, 172_800)] == ["5 s", "119 s", "2.0 min", "2.0 h", "2.0 days"]


def test_a_choice_of_nothing_is_told_as_such() -> None:
    lora = {"placements": [{"method": "lora", "block": 0, "size": 2}]}
    assert chosen_text(lora, {"lr": 1e-3}) == candidate_text(lora, {"lr": 1e-3})
    assert chosen_text({"placements": []}, {}).startswith("linear (nothing helps")
