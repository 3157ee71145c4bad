from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.sensitivity import section


def test_shares_are_drawn_by_operation_and_block(view: Callable[..., RunView]) -> None:
    told = section(view(sensitivity={"sites": [{"q": 3.0, "v": 0.0}, {"q": 1.0}]}))
    assert '"text":[["75.00%","25.00%"],["0.00%","0.00%"]]' in told
    assert section(view()) == ""
