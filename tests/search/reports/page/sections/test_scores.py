from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.scores import section
from petlas.search.selection import Agreement


def test_tau_is_told_with_its_interval_and_a_warning_where_it_is_chance(view: Callable[..., RunView]) -> None:
    points = ((4, 0.3, 0.8), (5, 0.4, 0.9))
    told = section(view(agreement=Agreement(0.5, -0.1, 0.9, {1: 0.012}, points)))
    assert "tau 0.50 (95% interval -0.10 to 0.90); trusting them loses 1.2 points with the best 1" in told
    assert "no better than chance" in told
    assert '"text":["trial 4","trial 5"]' in told
    assert section(view()) == ""
