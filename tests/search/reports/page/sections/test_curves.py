from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.curves import section


def test_every_training_has_a_line_and_the_chosen_one_is_on_top(view: Callable[..., RunView]) -> None:
    told = section(view((0.95, None)))
    assert told.count('"mode":"lines"') == 3
    assert told.rindex('"name":"chosen"') > told.rindex('"name":"stopped early"') > told.rindex('"name":"whole"')
