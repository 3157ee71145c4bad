from typing import Any

import pytest

from petlas.search.tables import outcome_table, percent, study_table, table

DESIGN = {"backbone": "b", "placements": [{"method": "lora", "block": 1, "size": 4}]}


def row(number: int, state: str, val: float | None, **more: Any) -> dict[str, Any]:
    base = {"stage": "search", "design": DESIGN, "key": str(number), "params": 1234, "epochs": 2, "seconds": 3.4}
    return base | {"number": number, "state": state, "val": val} | more


def test_accuracies_are_percent_and_nothing_is_a_dash() -> None:
    assert [percent(value) for value in (0.8766, 1, 0, None, float("nan"))] == ["87.7", "100.0", "0.0", "-", "-"]


def test_number_columns_are_aligned_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "count#"), [("a", "5"), ("b", "1000")], title="things")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["things", "name  count", "a         5", "b      1000"]


def test_a_study_is_shown_with_its_front_its_best_and_the_error_of_its_accuracy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = row(0, "COMPLETE", 0.9)
    trials = [best, row(1, "PRUNED", 0.5), row(2, "FAIL", None, design={}, seconds=0.0)]
    study_table({"trials": trials, "best": best, "pareto": [best]}, 200)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[1].split()[:7] == ["0*", "COMPLETE", "search", "90.0", "1,234", "2", "3"]
    assert lines[2].split()[:2] == ["1", "PRUNED"]
    assert lines[3].split()[:4] == ["2", "FAIL", "search", "-"]
    assert "lora -,4" in lines[1]
    assert "best: trial 0 with 90.0% on val (standard error 2.1 points on 200 images)" in " ".join(out.split())


def test_without_the_data_the_standard_error_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    best = row(0, "COMPLETE", 0.9)
    study_table({"trials": [best], "best": best, "pareto": [best]}, None)
    assert "standard error" not in capsys.readouterr().out


def test_a_study_without_a_finished_trial_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    study_table({"trials": [row(0, "RUNNING", 0.4)], "best": None, "pareto": []}, 200)
    assert "no trial has come to its end yet" in capsys.readouterr().out


def test_outcomes_have_a_spread_where_there_are_several_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"name": "found", "design": DESIGN, "params": 9, "val": None, "test_mean": 0.5, "test_std": 0, "seeds": [0]}
    many = one | {"name": "linear", "design": {"placements": []}, "val": 0.25, "test_std": 0.0123, "seeds": [0, 1]}
    outcome_table([one, many])
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.split() == ["found", "-", "50.0", "9", "lora", "-,4"]
    assert second.split() == ["linear", "25.0", "50.0", "±", "1.2", "9", "linear"]
