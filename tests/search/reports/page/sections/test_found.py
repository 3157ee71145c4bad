from collections.abc import Callable
from typing import Any

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.found import section


def test_two_sentences_say_what_was_found_and_how_sure_that_is(view: Callable[..., RunView]) -> None:
    told = section(view((0.95, 0.9)))
    assert "the search chose lora 1,-,4, 200 parameters, with 95.0% on val (standard error 1.5 points on 200" in told
    assert "It was not tested yet; against the best known design, adapter, that is +2.0 points" in told
    assert "no more than two standard errors (4.7 points) on val" in told
    assert "test" not in told.partition("<thead>")[2].partition("</thead>")[0]  # columns of nothing are left out


def test_where_test_was_read_it_is_what_counts(view: Callable[..., RunView]) -> None:
    run = view((0.95,))
    best, known = run.report.best, run.known[0]
    assert best is not None

    def outcome(design: dict[str, Any], mean: float) -> dict[str, Any]:
        return {"design": design, "settings": {}, "test_mean": mean, "test_std": 0.01, "seeds": [0, 1, 2, 3]}

    run = view((0.95,), retrained=outcome(best.design, 0.96), baselines=[outcome(known.design, 0.90)])
    told = section(run)
    assert "Retrained on train+val with 4 seeds it has 96.0% ± 1.0 on test" in told
    assert "+6.0 points, which is more than two standard errors (1.4 points)" in told


def test_nothing_finished_is_said(view: Callable[..., RunView], trial: Any) -> None:
    assert "No trial has come to its end yet" in section(view(trials=[trial(0, None, {})]))
