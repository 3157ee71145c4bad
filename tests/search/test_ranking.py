import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from petlas.petl.design import Design
from petlas.search.ranking import rank_agreement, ranking_of, regret
from petlas.search.record import FINALIST, RANKING, SCORE, StudyRecord

Lora = Callable[..., Design]
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


def test_the_evidence_is_taken_from_the_designs_of_the_ranking_check_alone(tmp_path: Path, lora: Lora) -> None:
    record = StudyRecord.in_folder(tmp_path)
    assert ranking_of(record) is None
    designs = [lora(b0=i) for i in range(1, 6)]
    for i, design in enumerate(designs):
        trial = record.begin(SCORE)
        record.fill(trial, design, 1, 0, {"x": (i, 9)})
        record.finish(trial.number, 0, i / 10, True, 0.1)
    for stage, picked in ((RANKING, (0, 2, 4)), (FINALIST, (3,))):
        for i in picked:
            record.enqueue(designs[i], 1, stage, 0, {})
            record.finish(record.study.ask().number, 1, 0.5 + i / 100, True, 0.1)
    ranking = ranking_of(record)
    assert ranking is not None
    assert ranking.tau == 1
    assert [(score, val) for _, score, val in ranking.points] == [(0.0, 0.5), (0.2, 0.52), (0.4, 0.54)]
    assert ranking.regret == {1: 0, 3: 0}
