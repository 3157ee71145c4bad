from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.designs import section


def test_sizes_stand_at_their_blocks_the_chosen_design_first(view: Callable[..., RunView]) -> None:
    told = section(view((0.95,)))
    assert '"y":["1. lora (95.0)","2. adapter (93.0)"]' in told
    assert '"text":[["1","","4"],["3","3",""]]' in told
