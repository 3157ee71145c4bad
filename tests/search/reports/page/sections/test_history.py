from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.history import section


def test_trials_stand_by_stage_and_by_what_was_spent(view: Callable[..., RunView]) -> None:
    told = section(view((0.95, None)))
    for kind in ("baseline", "search", "stopped early", "best so far"):
        assert f'"name":"{kind}"' in told
    assert '"x":[1.0,2.0],"y":[0.93,0.95]' in told  # the best so far, in R
