import math
from dataclasses import replace

import numpy as np
import pytest

from petlas.search.selection import Evidence, Known, Measurement, agreement_of, believe, scale_of
from petlas.search.training.fidelity import Fidelity


def drawn(rng: np.random.Generator, count: int, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of designs, and what these are worth: twice as much, up to an error."""
    scores = rng.normal(0.4, 0.02, count)
    return scores, 0.8 + 2 * (scores - 0.4) + rng.normal(0, error, count)


def test_the_line_and_the_error_of_scores_are_those_that_made_the_values() -> None:
    scores, values = drawn(np.random.default_rng(0), 80, 0.03)
    found = agreement_of([(i, *pair) for i, pair in enumerate(zip(scores, values, strict=True))])
    assert found is not None
    scale = scale_of(found, 0.0)
    assert scale is not None
    assert scale.slope == pytest.approx(2, rel=0.25)
    assert scale.value(0.4) == pytest.approx(0.8, abs=0.006)
    assert 0.025 < scale.error < 0.037
    noisy = scale_of(found, 0.02**2)
    assert noisy is not None
    assert noisy.error < scale.error  # a part of what is beside the line is of the trainings


def test_what_the_best_by_score_lost_counts_as_an_error_of_scores() -> None:
    found = agreement_of([(i, i / 10, i / 100 + 0.02 * (i % 2)) for i in range(12)])
    assert found is not None
    plain, worse = scale_of(found, 0.0), scale_of(replace(found, regret={1: 0.2, 3: 0.0}), 0.0)
    assert plain is not None
    assert worse is not None
    assert (plain.slope, plain.offset) == (worse.slope, worse.offset)
    assert worse.error**2 - plain.error**2 == pytest.approx((0.2**2 - found.regret[1] ** 2) / 13)


def test_scores_that_rank_no_better_than_chance_say_nothing() -> None:
    chance = agreement_of([(i, (7919 * i) % 41, i) for i in range(40)])
    equal = agreement_of([(i, 0.5, i) for i in range(9)])
    assert chance is not None
    assert equal is not None
    assert scale_of(chance, 0.0) is scale_of(equal, 0.0) is None


def test_designs_of_a_method_that_scores_flattered_fall_behind_those_of_others() -> None:
    """Of two methods that score alike, trained designs of the first are worse; benchmarks/supernet has whole tasks."""
    scores = {f"{method}{i}": 0.01 * i for method in "ab" for i in range(20)}
    trained = [(f"{method}{i}", 0.6 + 0.01 * i - 0.03 * (method == "a")) for method in "ab" for i in range(1, 20, 4)]
    found = agreement_of([(n, scores[key], value) for n, (key, value) in enumerate(trained)])
    assert found is not None
    scale = scale_of(found, 0.6 * 0.4 / 2000)
    assert scale is not None
    rows = [(key, Fidelity(9, 0), Measurement(value, 2000)) for key, value in trained]
    for key, score in scores.items():
        rows.append((key, Fidelity(0, 0), Measurement(scale.value(score), 0, error=scale.error)))
    known = {key: Known(frozenset({key[0]})) for key in scores}
    ranked = believe(Evidence.of(rows, 9), known).ranked(dict.fromkeys(known, 1))
    assert all(ranked.index(f"b{i}") < ranked.index(f"a{i}") for i in range(20))
    assert ranked.index("a19") < ranked.index("a14") < ranked.index("a6")  # and of one method the score counts


def test_what_a_score_says_counts_by_its_error_and_not_as_a_short_training() -> None:
    trained = [(key, Fidelity(9, 0), Measurement(0.8, 2000)) for key in "abcd"]

    def best(error: float) -> float:
        said = {"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.8, "e": 0.9}
        rows = [(key, Fidelity(0, 0), Measurement(value, 0, error=error)) for key, value in said.items()]
        found = believe(Evidence.of([*trained, *rows], 9), {})
        return found.of("e")[0]

    assert 0.8 < best(0.1) < best(0.01) < 0.9 + 1e-6
    assert best(0.01) > 0.85
    assert math.isfinite(best(1e-6))
