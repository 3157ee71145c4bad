import math
from itertools import pairwise

import numpy as np
import pytest

from petlas.search.config import TrainConfig
from petlas.search.training.schedule import lr_factor


def schedule(train: TrainConfig, steps: int) -> list[float]:
    return [train.lr * lr_factor(step, train, steps) for step in range(train.epochs * steps + 3)]


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_one_percent() -> None:
    rates = schedule(TrainConfig(epochs=10, warmup_epochs=2, lr=2.0), steps=5)
    np.testing.assert_allclose(rates[:10], [2.0 * (i + 1) / 11 for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[30] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    np.testing.assert_allclose(rates[10:50], [2 * (0.01 + 0.495 * (1 + math.cos(math.pi * i / 40))) for i in range(40)])
    np.testing.assert_allclose(rates[50:], 0.02)


def test_without_warm_up_the_learning_rate_begins_at_its_peak() -> None:
    rates = schedule(TrainConfig(epochs=2, warmup_epochs=0, lr=1.0), steps=4)
    assert rates[0] == 1.0
    assert all(a > b for a, b in pairwise(rates[:8]))
