import math

import pytest

from petlas.search.stages.divergence import diverges


@pytest.mark.parametrize(
    ("epoch", "loss", "usual", "stops"),
    [
        (1, 1.9, [1.0, 1.2, 0.8], False),
        (1, 2.1, [1.0, 1.2, 0.8], True),
        (2, 0.9, [1.0, 1.2, 0.8], False),
        (2, 1.1, [1.0, 1.2, 0.8], True),
        (3, 9.0, [1.0, 1.2], False),
        (3, 9.0, [], False),
        (1, math.nan, [], True),
        (1, math.inf, [], True),
    ],
)
def test_a_loss_is_held_against_what_others_had_after_one_epoch(
    epoch: int, loss: float, usual: list[float], stops: bool
) -> None:
    assert diverges(epoch, loss, usual) is stops
