from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.costs import section


def test_trials_r_and_seconds_are_summed_by_stage(view: Callable[..., RunView]) -> None:
    told = section(view((0.95, 0.9)))
    assert '<td class="">search</td><td class="number">2</td><td class="number">2.0</td>' in told
    assert '<td class="">all</td><td class="number">3</td><td class="number">3.0</td>' in told
    assert "Searching took 60 s by the clock" in told
