from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.sensitivity import section


def test_shares_are_drawn_by_operation_and_block(view: Callable[..., RunView]) -> None:
    told = section(view(sensitivity={"sites": [{"q": 3.0, "v": 0.0}, {"q": 1.0}]}))
    assert '<th>q</th><td style="--share:100%">75.00</td><td style="--share:0%">25.00</td>' in told
    assert '<th>v</th><td style="--share:0%">0.00</td><td></td>' in told  # measured as nothing, and not measured
    assert section(view()) == ""
