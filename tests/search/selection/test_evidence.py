import math
import subprocess
import sys

import numpy as np
import pytest
from evidence_cases import EPOCHS, Case, cases, evidence, folds, whole
from hypothesis import given
from sklearn.metrics import balanced_accuracy_score

from petlas.search.selection import Evidence, Measurement
from petlas.search.training.fidelity import Fidelity


def test_the_pooled_value_weighs_folds_by_their_images() -> None:
    mixed = {
        Fidelity(EPOCHS, 0, 0, 2): Measurement(0.5, 100),
        Fidelity(EPOCHS, 0, 1, 2): Measurement(0.8, 300),
    }
    found = evidence(a=mixed).pooled("a")
    assert found is not None
    assert found.value == pytest.approx((50 + 240) / 400)
    assert found.images == 400
    assert found.error == pytest.approx(math.sqrt(0.725 * 0.275 / 400))


def test_the_pooled_value_is_the_share_of_all_images_that_were_told_right() -> None:
    right = np.random.default_rng(0).random(1000) < 0.8
    parts = np.array_split(right, 3)
    measured = {Fidelity(EPOCHS, 0, i, 3): Measurement(float(p.mean()), len(p)) for i, p in enumerate(parts)}
    found = evidence(a=measured).pooled("a")
    assert found is not None
    assert found.value == pytest.approx(right.mean())
    assert found.error == pytest.approx(right.std() / math.sqrt(1000))


def test_several_seeds_are_averaged_and_count_their_images_once() -> None:
    found = evidence(a=folds(0.5, 0.7) | folds(0.7, 0.9, seed=1)).pooled("a")
    assert found is not None
    assert (found.value, found.images) == (pytest.approx(0.7), 200)


@pytest.mark.parametrize(
    "measured",
    [
        {},
        whole(0.9),
        {Fidelity(EPOCHS, 0, i, 3): Measurement(0.9, 100) for i in range(2)},
        {Fidelity(EPOCHS, i, i, 3): Measurement(0.9, 100) for i in range(3)},
        {Fidelity(EPOCHS - 1, 0, i, 3): Measurement(0.9, 100) for i in range(3)},
        folds(0.9, math.nan, 0.9),
    ],
    ids=["nothing", "the split alone", "a fold is missing", "folds of several seeds", "fewer epochs", "not finite"],
)
def test_there_is_no_pooled_value_without_all_folds_of_a_seed_trained_whole(
    measured: dict[Fidelity, Measurement],
) -> None:
    assert evidence(a=measured).pooled("a") is None


def test_candidates_are_compared_on_the_most_folds_that_one_of_them_has() -> None:
    found = evidence(a=folds(0.9, 0.9), b=folds(0.8, 0.8, 0.8) | folds(0.1, 0.1))
    assert found.folds == 3
    assert found.pooled("a") is None
    assert (pooled := found.pooled("b")) is not None and pooled.value == pytest.approx(0.8)
    assert evidence(a=whole(0.9)).folds is None


def test_a_value_is_that_of_the_whole_training_on_the_selection_split() -> None:
    early = {Fidelity(EPOCHS - 1, 0): Measurement(0.99, 200)}
    found = evidence(
        a=early | whole(0.8), b=early, c=folds(0.9, 0.9), d=whole(math.nan), e=whole(0.1) | whole(0.3, seed=1)
    )
    assert found.values == {"a": 0.8, "e": pytest.approx(0.2)}


def test_a_value_that_is_no_share_has_no_standard_error() -> None:
    found = evidence(a=folds(3.0, 5.0)).pooled("a")
    assert found is not None
    assert found.value == 4
    assert math.isnan(found.error)


def with_images(right: np.ndarray, count: int) -> dict[Fidelity, Measurement]:
    parts = [tuple(map(bool, part)) for part in np.array_split(right, count)]
    return {Fidelity(EPOCHS, 0, i, count): Measurement(sum(p) / len(p), len(p), p) for i, p in enumerate(parts)}


def test_two_candidates_that_err_on_the_same_images_are_told_apart_more_sharply() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1000) < 0.8
    second = first & (rng.random(1000) < 0.97)  # right on a part of the same images
    pairs = evidence(a=with_images(first, 3), b=with_images(second, 3)).difference("a", "b")
    shares = [first[part].mean() for part in np.array_split(np.arange(1000), 3)]
    assert pairs.paired
    assert pairs.value == pytest.approx(first.mean() - second.mean())
    apart = first.astype(float) - second
    assert pairs.error == pytest.approx(apart.std() / math.sqrt(1000))
    plain = {Fidelity(EPOCHS, 0, i, 3): Measurement(float(share), 334 - (i > 0)) for i, share in enumerate(shares)}
    unpaired = evidence(a=plain, b=with_images(second, 3)).difference("a", "b")
    assert not unpaired.paired
    assert unpaired.value == pytest.approx(pairs.value)
    assert unpaired.error == pytest.approx(math.hypot(first.std(), second.std()) / math.sqrt(1000))
    assert pairs.error < unpaired.error / 2


def by_class(right: np.ndarray, classes: np.ndarray, count: int) -> dict[Fidelity, Measurement]:
    """A candidate on folds, whose values are the means over the classes of each fold."""
    found = {}
    for fold in range(count):
        own, of = right[fold::count], classes[fold::count]
        value = float(np.mean([own[of == k].mean() for k in np.unique(of)]))
        found[Fidelity(EPOCHS, 0, fold, count)] = Measurement(value, len(own), tuple(own.tolist()), tuple(of.tolist()))
    return found


def test_a_mean_over_classes_is_that_of_all_images_and_not_of_the_folds() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [4, 26, 70])
    first, second = rng.random(100) < 0.8, rng.random(100) < 0.6
    first[:4] = True, False, False, True  # both that are right are in one fold
    measured = {"a": by_class(first, classes, 3), "b": by_class(second, classes, 3)}
    found = Evidence(measured, EPOCHS, shares=False)
    said = [np.where(own, classes, (classes + 1) % 3) for own in (first, second)]
    whole, other = (balanced_accuracy_score(classes, own) for own in said)
    pooled, apart = found.pooled("a"), found.difference("a", "b")
    assert pooled is not None
    assert pooled.value == pytest.approx(whole)
    assert abs(np.mean([m.value for m in measured["a"].values()]) - whole) > 0.05
    assert 0.02 < pooled.error < 0.15
    assert apart.paired
    assert apart.value == pytest.approx(whole - other)
    assert apart.error > 0


def test_a_metric_that_ranks_images_is_compared_fold_by_fold() -> None:
    first, second = folds(0.5, 0.7, 0.3), folds(0.4, 0.65, 0.15)
    found = Evidence({"a": first, "b": second}, EPOCHS, shares=False).difference("a", "b")
    assert found.paired
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(np.std([0.1, 0.05, 0.15], ddof=1) / math.sqrt(3))


def test_folds_of_other_deals_are_not_mixed_with_those_of_the_first() -> None:
    def dealt(repeat: int, *values: float) -> dict[Fidelity, Measurement]:
        return {Fidelity(EPOCHS, 0, i, 3, repeat): Measurement(v, 100) for i, v in enumerate(values)}

    whole = evidence(a=dealt(0, 0.5, 0.5, 0.5) | dealt(1, 0.8, 0.8, 0.8)).pooled("a")
    assert whole is not None
    assert (whole.value, whole.images) == (pytest.approx(0.65), 300)
    assert whole.error == pytest.approx(math.sqrt(0.65 * 0.35 / 300))  # the same images twice
    assert evidence(a=dealt(0, 0.5, 0.5) | dict([*dealt(1, 0.8, 0.8, 0.8).items()][2:])).pooled("a") is None


def test_a_difference_turns_its_sign_with_the_candidates() -> None:
    found = evidence(a=folds(0.9, 0.8), b=folds(0.5, 0.6))
    assert found.difference("a", "b").value == -found.difference("b", "a").value
    assert found.difference("a", "b").error == found.difference("b", "a").error


def test_candidates_without_folds_are_not_compared_on_them() -> None:
    with pytest.raises(ValueError, match=r"all its folds.*'b'"):
        evidence(a=folds(0.9, 0.9), b=whole(0.8)).difference("a", "b")


@given(cases())
def test_rows_in_another_order_are_the_same_evidence(case: Case) -> None:
    rows, params = case
    one, other = Evidence.of(rows, EPOCHS), Evidence.of(reversed(rows), EPOCHS)
    assert (one.values, one.folds) == (other.values, other.folds)
    assert [one.pooled(key) for key in params] == [other.pooled(key) for key in params]


def test_of_two_rows_of_the_same_training_the_first_counts() -> None:
    fidelity = Fidelity(EPOCHS, 0)
    found = Evidence.of([("a", fidelity, Measurement(0.5, 9)), ("a", fidelity, Measurement(0.7, 9))], EPOCHS)
    assert found.values == {"a": 0.5}


@given(cases())
def test_a_pooled_value_lies_between_those_of_the_folds(case: Case) -> None:
    rows, params = case
    found = Evidence.of(rows, EPOCHS)
    for key in params:
        if (pooled := found.pooled(key)) is not None:
            of_folds = [m.value for f, m in found.measured[key].items() if f.fold is not None]
            assert min(of_folds) - 1e-9 <= pooled.value <= max(of_folds) + 1e-9
            assert pooled.error >= 0


def test_folds_of_unknown_numbers_of_images_are_not_pooled() -> None:
    assert evidence(a=folds(0.9, 0.9, images=0)).pooled("a") is None
    assert evidence(a=whole(0.9, images=0)).values == {"a": 0.9}


def test_selection_needs_neither_torch_nor_optuna() -> None:
    code = "import sys, petlas.search.selection; sys.exit(bool({'torch', 'optuna', 'ray'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_value_that_is_no_share_of_images_has_no_standard_error_of_one() -> None:
    rows = [("a", Fidelity(1, 0, fold, 2), Measurement(0.9, 50)) for fold in range(2)]
    shares, others = (Evidence.of(rows, 1, shares=shares).pooled("a") for shares in (True, False))
    assert shares is not None
    assert others is not None
    assert shares.value == others.value
    assert shares.error > 0
    assert math.isnan(others.error)
