from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from evidence_cases import EPOCHS, Case, cases, evidence, folds, whole
from hypothesis import given
from hypothesis import strategies as st

from petlas.search.selection import Evidence, Measurement, choose
from petlas.search.training.fidelity import Fidelity


def chosen(case: Case, maximize: bool = True) -> str | None:
    rows, params = case
    return choose(Evidence.of(rows, EPOCHS), params, maximize)


@pytest.mark.parametrize(
    ("found", "params", "best"),
    [
        (evidence(), {}, None),
        (evidence(a=whole(0.8), b=whole(0.9)), {"a": 1, "b": 9}, "b"),
        (evidence(a=whole(0.9), b=whole(0.9)), {"a": 2, "b": 1}, "b"),
        (evidence(b=whole(0.9), a=whole(0.9)), {"a": 1, "b": 1}, "a"),
        (evidence(a={Fidelity(EPOCHS - 1, 0): Measurement(1.0, 200)}, b=whole(0.1)), {"a": 1, "b": 1}, "b"),
        (evidence(a={Fidelity(EPOCHS - 1, 0): Measurement(1.0, 200)}), {"a": 1}, None),
        (evidence(a=whole(0.99), b=whole(0.8) | folds(0.7, 0.7), c=folds(0.7, 0.8)), dict.fromkeys("abc", 1), "c"),
        (evidence(a=whole(0.9), b=whole(0.8)), {"b": 1}, "b"),
        (evidence(a=whole(float("nan")), b=whole(0.0)), {"a": 1, "b": 1}, "b"),
    ],
    ids=[
        "nothing was measured",
        "the highest value",
        "of equal values the fewest parameters",
        "of equal parameters the first tried",
        "not what fewer epochs gave",
        "fewer epochs are no evidence",
        "those with folds, by all folds",
        "only candidates that are asked for",
        "not what is not finite",
    ],
)
def test_the_choice_on_examples_worked_by_hand(found: Evidence, params: dict[str, int], best: str | None) -> None:
    assert choose(found, params) == best


def test_a_metric_that_is_better_when_lower_is_minimised() -> None:
    assert choose(evidence(a=whole(0.8), b=whole(0.9)), {"a": 9, "b": 1}, maximize=False) == "a"


@given(cases(), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_evidence(case: Case, random: Random) -> None:
    rows, params = case
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert chosen((rows, params)) == chosen((shuffled, params))


@given(cases(), st.integers(1, 3))
def test_a_worse_candidate_changes_nothing(case: Case, params: int) -> None:
    rows, known = case
    worse = [("worse", fidelity, Measurement(-1.0, 64)) for _, fidelity, _ in rows if fidelity.fold is None]
    best = chosen(case)
    assert chosen(([*rows, *worse], known | {"worse": params})) == (best or ("worse" if _is_whole(worse) else None))


def _is_whole(rows: list[tuple[str, Fidelity, Measurement]]) -> bool:
    return any(fidelity.epochs == EPOCHS for _, fidelity, _ in rows)


@given(cases())
def test_taking_away_what_was_not_chosen_changes_nothing(case: Case) -> None:
    rows, params = case
    best = chosen(case)
    others = [key for key in params if key != best]
    if best is not None and others:
        assert chosen((rows, {key: value for key, value in params.items() if key != others[0]})) == best


@given(cases(), st.sampled_from([lambda x: 100 * x, lambda x: x / 4 - 7, lambda x: 8 * x + 1]))
def test_another_unit_of_the_metric_changes_nothing(case: Case, unit: Callable[[float], float]) -> None:
    rows, params = case
    scaled = [(key, fidelity, replace(m, value=unit(m.value))) for key, fidelity, m in rows]
    assert chosen((scaled, params)) == chosen(case)


@given(cases(), st.sampled_from([lambda x: x**3, lambda x: 2**x, lambda x: -1 / (1 + x)]))
def test_without_folds_any_monotone_change_of_the_metric_changes_nothing(
    case: Case, change: Callable[[float], float]
) -> None:
    rows, params = case
    plain = [row for row in rows if row[1].fold is None and row[1].seed == 0]
    changed = [(key, fidelity, replace(m, value=change(m.value))) for key, fidelity, m in plain]
    assert chosen((changed, params)) == chosen((plain, params))


@given(cases())
def test_to_minimise_is_to_maximise_the_negative(case: Case) -> None:
    rows, params = case
    negative = [(key, fidelity, replace(m, value=-m.value)) for key, fidelity, m in rows]
    assert chosen((negative, params)) == chosen(case, maximize=False)


@given(cases())
def test_fewer_epochs_are_never_evidence(case: Case) -> None:
    rows, params = case
    assert chosen((rows, params)) == chosen(([row for row in rows if row[1].epochs == EPOCHS], params))


def test_folds_over_the_finalists_lose_less_than_the_maximum_on_200_images() -> None:
    """With known truths: 40 candidates, of which the best five on 200 images are measured on three folds of 1,000."""
    rng, lost = np.random.default_rng(0), {"split": 0.0, "folds": 0.0}
    for _ in range(300):
        truth = rng.normal(0.8, 0.02, 40)
        on_split = rng.binomial(200, truth) / 200
        rows = [(str(i), Fidelity(EPOCHS, 0), Measurement(value, 200)) for i, value in enumerate(on_split)]
        params = {str(i): 1 for i in range(40)}
        finalists = np.argsort(-on_split, kind="stable")[:5]
        on_folds = [
            (str(i), Fidelity(EPOCHS, 0, fold, 3), Measurement(rng.binomial(images, truth[i]) / images, images))
            for i in finalists
            for fold, images in enumerate((334, 333, 333))
        ]
        for way, known in (("split", rows), ("folds", rows + on_folds)):
            best = choose(Evidence.of(known, EPOCHS), params)
            assert best is not None
            lost[way] += (truth.max() - truth[int(best)]) / 300
    assert lost["folds"] < 0.75 * lost["split"]
