import re
from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.designs import section


def test_sizes_stand_at_their_blocks_the_chosen_design_first(view: Callable[..., RunView]) -> None:
    told = section(view((0.95,)))
    told, _, under = told.partition("<figcaption>")
    assert re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", told)[1:] == [
        ("1. lora (95.0)", '<td style="--share:25%">1</td><td></td><td style="--share:100%">4</td>'),
        ("2. adapter (93.0)", '<td style="--share:100%">3</td>' * 2 + "<td></td>"),
    ]
    assert "The sizes of the best 2 designs" in under
