from collections.abc import Callable
from typing import Any

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.front import section


def test_designs_and_their_front_are_drawn(view: Callable[..., RunView], trial: Any) -> None:
    told = section(view((0.95, 0.9)))
    assert '"name":"front"' in told
    assert '"x":[200,100,300]' in told
    assert section(view(trials=[trial(0, 0.9, {})])) == ""
