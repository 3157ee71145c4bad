from collections.abc import Callable
from dataclasses import replace
from typing import Any

from petlas.search.objectives import Metric
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
