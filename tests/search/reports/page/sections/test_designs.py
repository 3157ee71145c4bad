import re
from collections.abc import Callable
from typing import Any

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


def test_designs_without_blocks_are_named_beside_it(view: Callable[..., RunView], trial: Any) -> None:
    whole = {"backbone": "b", "placements": [{"method": "ssf", "block": None, "size": None}]}
    lora = {"backbone": "b", "placements": [{"method": "lora", "block": 0, "size": 2}]}
    linear = {"backbone": "b", "placements": []}
    told = section(view(trials=[trial(n, 0.9 - n / 10, made) for n, made in enumerate((whole, lora, linear))]))
    assert "<th>2. lora (80.0)</th>" in told
    assert "Not here, as they have nothing in single blocks: 1. ssf (90.0); 3. linear (70.0)." in told
