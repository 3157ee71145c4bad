import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from petlas.search.objectives import Metric
from petlas.search.reports.comparing import RunRow, compared
from petlas.search.reports.page.comparison import comparison
from petlas.search.reports.page.run import RunView


def test_each_run_is_a_row_and_the_mean_is_of_all(view: Callable[..., RunView]) -> None:
    retrained: dict[str, Any] = {"test_mean": 0.9, "test_std": 0.01, "seeds": [0, 1]}
    made = comparison([view(name="a", retrained=retrained), view((0.99, 0.9), name="b", retrained=retrained)])
    assert "<h2>2 runs</h2>" in made
    assert ">95.0<" in made and ">99.0<" in made and ">97.0<" in made  # the mean comes last
    assert "90.0 ± 1.0" in made


def test_values_of_different_metrics_have_no_mean_and_a_run_without_a_result_says_so(
    view: Callable[..., RunView],
) -> None:
    one = view()
    other = replace(one, report=replace(one.report, metric=Metric("mAP"), best=None))
    made = comparison([one, other])
    assert "different metrics" in made
    assert ">mean<" not in made
    assert "no trial has come to its end yet" in made


def test_a_run_is_told_with_its_cost_and_its_value_by_parameters(view: Callable[..., Any]) -> None:
    retrained = {"test_mean": 0.9, "test_std": 0.01, "seeds": [0, 1], "params": 9_000_000}
    made = RunRow.of(view(retrained=retrained))
    assert pytest.approx(3.0) == made.R  # three trainings of all epochs
    assert made.ppt == pytest.approx(0.9 * 1.9**-0.4343, abs=1e-4)  # exp(-log10 x) = x ** -log10 e
    assert made.error == pytest.approx((0.95 * 0.05 / 200) ** 0.5)
    one = view(retrained=retrained)
    started = replace(one, report=replace(one.report, best=None), retrained=None)
    cells = compared([one, started])
    assert "90.0 ± 1.0" in cells[0]
    assert "no trial has come to its end yet" in cells[1]
    assert cells[2][0] == "mean" and cells[2][5] == "-"


def test_the_matrix_says_which_method_won_where_and_what_may_be_as_good(view: Callable[..., RunView]) -> None:
    """What was found lost in the second run, by less than two standard errors."""
    made, _, sizes = comparison([view((0.99,), name="a"), view((0.925,), name="b")]).partition("What was found where")
    cells = {
        row[0]: row[1:] for row in (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r) for r in made.split("<tr>")) if row
    }
    assert cells["found"] == ["2", "99.0 ★", "93.0 ★"]  # in b the baseline is what was found
    assert cells["adapter"][1] == "93.0"
    assert "2 x 1 to 4" in sizes and "2 x 3" in sizes  # two places of LoRA; and of the adapter


def test_designs_that_were_tested_are_compared_on_test(view: Callable[..., RunView]) -> None:
    run = view((0.95,))
    best, known = run.report.best, run.known[0]
    assert best is not None

    def outcome(row: Any, mean: float) -> dict[str, Any]:
        return {"design": row.design, "settings": {}, "params": 9, "test_mean": mean, "test_std": 0.0, "seeds": [0]}

    tested = replace(run, retrained=outcome(best, 0.90), baselines=[outcome(known, 0.91)])
    made = comparison([tested, view((0.95,), name="b")])
    assert "run, test" in made
    assert "91.0 ★" in made and ">90.0<" in made
