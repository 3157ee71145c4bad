import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from petlas.search.selection import agreement_of, rank_agreement, regret

VALUES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8)


def tau_b(x: list[int], y: list[int]) -> float:
    """Kendall's tau-b, pair by pair."""
    pairs = [(x[i] - x[j], y[i] - y[j]) for i, j in itertools.combinations(range(len(x)), 2)]
    agreeing = sum((a * b > 0) - (a * b < 0) for a, b in pairs)
    untied = sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs)
    return agreeing / math.sqrt(untied) if untied else math.nan


@given(VALUES)
def test_tau_is_that_of_all_pairs(points: list[tuple[int, int]]) -> None:
    x, y = map(list, zip(*points, strict=True))
    tau, low, high = rank_agreement(x, y)
    assert tau == pytest.approx(tau_b(x, y), nan_ok=True)
    assert tau == pytest.approx(kendalltau(x, y).statistic, nan_ok=True)
    if not math.isnan(tau):
        assert -1 <= low <= high <= 1


def test_the_interval_is_narrow_for_many_designs_and_holds_0_for_noise() -> None:
    clear = [i + (i % 3) for i in range(40)]
    _, low, high = rank_agreement(list(range(40)), clear)
    assert 0.7 < low < high <= 1
    noise = [(7919 * i) % 41 for i in range(40)]
    _, low, high = rank_agreement(list(range(40)), noise)
    assert low < 0 < high


def test_regret_is_what_the_best_by_score_lose() -> None:
    scores, vals = [0.9, 0.8, 0.8, 0.1], [0.5, 0.7, 0.6, 0.8]
    assert regret(scores, vals, 1) == pytest.approx(0.3)
    assert regret(scores, vals, 2) == pytest.approx(0.2)  # of the two tied designs the worse one counts
    assert regret(scores, vals, 3) == pytest.approx(0.1)
    assert regret(scores, vals, 4) == 0


def test_the_agreement_says_what_the_points_say() -> None:
    points = [(5, 0.0, 0.5), (6, 0.2, 0.52), (7, 0.4, 0.54)]
    found = agreement_of(points)
    assert found is not None
    assert found.tau == 1
    assert found.trusted == (found.low > 0)
    assert list(found.points) == points
    assert found.regret == {1: 0, 3: 0}


def test_one_point_says_nothing() -> None:
    assert agreement_of([]) is None
    assert agreement_of([(0, 0.1, 0.2)]) is None
