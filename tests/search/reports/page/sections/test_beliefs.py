from collections.abc import Callable

from petlas.petl.design import Design
from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.beliefs import section
from petlas.search.study import Step
from petlas.spaces import Candidate


def test_each_rung_is_told_with_what_it_changed(view: Callable[..., RunView]) -> None:
    best = Candidate(Design(()), (("lr", 0.01),))
    steps = [
        Step("portfolio", 1, 12, 1.333, best, None, (0.71, 0.02)),
        Step("halving", 9, 2, 2.0, best, (0.71, 0.02), (0.84, 0.011)),
    ]
    told = section(view(course=steps))
    for cell in ("portfolio", "1.33", "71.0 ± 2.0", "84.0 ± 1.1", "linear | lr 0.01"):
        assert f">{cell}<" in told
    assert section(view()) == ""
