from collections.abc import Mapping
from statistics import fmean

import numpy as np
import pytest

from petlas.search.selection import Evidence, Known, Measurement, believe, choose_by_belief
from petlas.search.training.fidelity import Fidelity

SHORT, LONG = 4, 36
Rows = list[tuple[str, Fidelity, Measurement]]


def row(
    key: str, value: float, epochs: int = LONG, fold: int = 0, images: int = 200
) -> tuple[str, Fidelity, Measurement]:
    return key, Fidelity(epochs, 0, fold, 5), Measurement(value, images)


def kin(groups: Mapping[str, str]) -> dict[str, Known]:
    return {key: Known(frozenset(group.split("+"))) for key, group in groups.items()}


def beliefs(
    rows: Rows, known: Mapping[str, Known] | None = None, shares: bool = True
) -> dict[str, tuple[float, float]]:
    found = believe(Evidence.of(rows, LONG, shares), known or {})
    return {key: found.of(key) for key in found.keys}


def test_nothing_is_believed_of_nothing() -> None:
    found = believe(Evidence.of([], LONG), {})
    assert (found.keys, found.ranked({"a": 1})) == ((), [])
    assert choose_by_belief(Evidence.of([], LONG), {"a": 1}, {}) is None


def test_a_candidate_is_drawn_towards_all_and_the_more_the_less_was_seen_of_it() -> None:
    many = [row("often", 0.9, fold=fold) for fold in range(4)] + [row("once", 0.9)]
    rest = [row(f"other{i}", 0.8, fold=fold) for i in range(4) for fold in range(4)]
    found = beliefs(many + rest)
    assert 0.8 < found["once"][0] < found["often"][0] < 0.9
    assert found["once"][1] > found["often"][1]


def test_a_candidate_is_drawn_towards_its_group() -> None:
    good = [row(f"lora{i}", 0.86) for i in range(3)]
    bad = [row(f"vpt{i}", 0.74) for i in range(3)]
    equal = [row("lora", 0.8), row("vpt", 0.8)]
    found = beliefs(good + bad + equal, kin({key: key.rstrip("012") for key, _, _ in good + bad + equal}))
    assert found["lora"][0] > found["vpt"][0] + 0.01


def test_what_a_short_training_tells_counts_less_than_what_a_long_one_does() -> None:
    rows = [row("early", 0.75, SHORT), row("early", 0.80), row("late", 0.70, SHORT), row("late", 0.85)]
    rows += [row(key, 0.725, SHORT) for key in "abc"]
    found = beliefs(rows)
    assert found["late"][0] > found["early"][0]
    assert all(found[key][1] > found["late"][1] for key in "abc")


def test_an_easy_fold_makes_nobody_better() -> None:
    rows = [row(key, 0.7 + 0.01 * i) for i, key in enumerate("abcd")]
    rows += [row(key, 0.9 + 0.01 * i, fold=1) for i, key in enumerate("ab")]
    found = beliefs(rows)
    assert [*sorted("abcd", key=lambda key: found[key][0])] == ["a", "b", "c", "d"]


def test_the_order_of_the_evidence_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = [row(key, float(rng.random()), epochs) for key in "abcdef" for epochs in (SHORT, LONG)]
    assert beliefs(rows) == beliefs(rows[::-1])


@pytest.mark.parametrize("unit", [1.0, 40.0])
def test_a_metric_that_is_no_share_is_believed_in_its_own_unit(unit: float) -> None:
    rows = [row(key, unit * value) for key, value in zip("abc", (0.1, 0.2, 0.6), strict=True)]
    found = beliefs(rows, shares=False)
    assert found["a"][0] < found["b"][0] < found["c"][0] < unit * 0.6
    one = beliefs([row(key, value) for key, value in zip("abc", (0.1, 0.2, 0.6), strict=True)], shares=False)
    assert found["c"][0] == pytest.approx(unit * one["c"][0])


def test_where_less_is_better_the_same_is_believed_of_what_is_mirrored() -> None:
    """A short training flatters high rates: its error is too small there."""
    rates = {"low": -3.5, "high": -2.5, "other": -3.0}
    known, mirrored = (
        {k: Known(frozenset(), rate, (0.1 * sign * rate,)) for k, rate in rates.items()} for sign in (1, -1)
    )
    rows = [row("low", 0.70, SHORT), row("high", 0.72, SHORT), row("other", 0.65, SHORT), row("other", 0.8, fold=1)]
    turned = [(key, fidelity, Measurement(1 - each.value, each.images)) for key, fidelity, each in rows]
    more = believe(Evidence.of(rows, LONG), known)
    less = believe(Evidence.of(turned, LONG), mirrored, maximize=False)
    for key in rates:
        assert less.of(key) == pytest.approx((1 - more.of(key)[0], more.of(key)[1]))


def test_of_candidates_that_cannot_be_told_apart_the_smallest_comes_first() -> None:
    rows = [row(key, 0.8, fold=fold) for key in "abc" for fold in range(3)] + [row("worse", 0.5)]
    found = believe(Evidence.of(rows, LONG), {})
    params = {"a": 3, "b": 1, "c": 2, "worse": 0}
    assert found.ranked(params) == ["b", "c", "a", "worse"]
    assert found.ranked(params, maximize=False)[0] == "worse"
    assert found.ranked({"a": 1, "c": 1}) == found.ranked({"c": 1, "a": 1}) == ["a", "c"]


def test_only_what_was_trained_whole_is_chosen_whatever_short_trainings_say() -> None:
    rows = [row("short", 0.99, SHORT), row("long", 0.5), row("long", 0.5, SHORT)]
    assert choose_by_belief(Evidence.of(rows, LONG), {"short": 1, "long": 1}, {}) == "long"


def test_it_loses_less_than_the_maximum_of_means_where_the_truth_is_known() -> None:
    """Groups with members, some seen on more folds than others; benchmarks/selection has realistic searches."""
    rng, lost = np.random.default_rng(0), {"maximum": 0.0, "belief": 0.0}
    for _ in range(20):
        group = rng.normal(0.8, 0.02, 5)
        truth = {f"{g}{i}": group[g] + rng.normal(0, 0.005) for g in range(5) for i in range(3)}
        folds = {key: 1 + int(3 * rng.integers(2)) for key in truth}
        seen = {key: [rng.binomial(100, value) / 100 for _ in range(folds[key])] for key, value in truth.items()}
        rows = [row(key, value, fold=fold, images=100) for key, own in seen.items() for fold, value in enumerate(own)]
        chosen = choose_by_belief(Evidence.of(rows, LONG), dict.fromkeys(truth, 1), kin({key: key[0] for key in truth}))
        assert chosen is not None
        lost["belief"] += max(truth.values()) - truth[chosen]
        means = {key: fmean(own) for key, own in seen.items()}
        lost["maximum"] += max(truth.values()) - truth[max(means, key=means.__getitem__)]
    assert lost["belief"] < 0.8 * lost["maximum"]


def test_what_other_tasks_say_decides_among_equals_and_not_against_the_evidence() -> None:
    known = {"strong": Known(expected=(0.03,)), "weak": Known(expected=(-0.03,))}
    equal = [row(key, 0.8) for key in known]
    found = beliefs(equal, known)
    assert found["strong"][0] > found["weak"][0] + 0.005
    unequal = [row("strong", 0.8, fold=fold) for fold in range(5)] + [row("weak", 0.95, fold=fold) for fold in range(5)]
    found = beliefs(unequal, known)
    assert found["weak"][0] > found["strong"][0] + 0.08


@pytest.mark.parametrize("alike", [0, 1])
def test_what_is_measured_says_which_of_the_recorded_backbones_this_one_is_like(alike: int) -> None:
    said = {"a": (0.05, -0.06), "b": (-0.04, 0.05), "c": (0.06, -0.05), "d": (-0.05, 0.06)}
    known = {key: Known(frozenset({key}), expected=worths) for key, worths in said.items()}
    rows = [row(key, 0.7 + said[key][alike], fold=fold) for key in "ab" for fold in range(2)]
    found = believe(Evidence.of(rows, LONG), known, others={key: known[key] for key in "cd"})
    better, worse = "dc" if alike else "cd"
    assert found.of(better)[0] > found.of(worse)[0] + 0.05


def test_designs_that_share_a_method_are_alike() -> None:
    known = kin({"a": "lora+convpass", "b": "convpass", "c": "lora+ssf", "d": "ssf", "e": "adapter"})
    rows = [row(key, value, fold=fold) for key, value in zip("ade", (0.9, 0.7, 0.7), strict=True) for fold in range(3)]
    found = beliefs([*rows, row("b", 0.8, SHORT), row("c", 0.8, SHORT)], known)
    assert found["b"][0] > found["c"][0] + 0.005


def test_what_a_rate_is_worth_is_learned_of_all() -> None:
    rates = {"low": -3.0, "middle": -2.5, "high": -2.0}
    known = {f"{rate}{method}": Known(frozenset({method}), lr) for rate, lr in rates.items() for method in "abc"}
    tilted = [row(key, 0.95 + 0.1 * (known[key].rate or 0.0)) for key in known if not key.endswith("c")]
    equal = [row(key, 0.7) for key in ("lowc", "middlec", "highc")]
    found, unrelated = (beliefs([*tilted, *equal], names) for names in (known, {}))
    gain = {key: found[key][0] - unrelated[key][0] for key in known}
    assert gain["highc"] > gain["lowc"] + 0.01
    assert beliefs(tilted, {key: Known(one.methods) for key, one in known.items()})  # without rates of their own


def test_what_a_setting_is_worth_is_learned_of_all_that_have_it() -> None:
    names = "abcdef"
    known = {name: Known(frozenset({"lora"}), settings={"hflip": 0.5 if name in "abc" else 0.0}) for name in names}
    rows = [row(name, 0.6 if name in "ab" else 0.8) for name in "abde"] + [row(name, 0.75) for name in "cf"]
    found = beliefs(rows, known)
    assert found["f"][0] - found["c"][0] > 0.02  # measured alike
    plain = beliefs(rows, {name: Known(frozenset({"lora"})) for name in names})
    assert plain["f"][0] == pytest.approx(plain["c"][0])
    lost = beliefs([row("a", 0.3), *(row(name, 0.8) for name in "bdef")], {n: known[n] for n in "abdef"})
    assert lost["a"][0] < 0.5  # mirrored images can lose nearly all


def test_of_what_was_not_measured_is_believed_what_it_has_in_common_with_what_was() -> None:
    known = {f"lora{n}": Known(frozenset({"lora"}), settings={"hflip": 0.5 * (n % 2)}) for n in range(4)}
    known |= {f"ssf{n}": Known(frozenset({"ssf"}), settings={"hflip": 0.0}) for n in range(3)}
    rows = [row(key, 0.6 if own.settings["hflip"] else 0.8) for key, own in known.items()]
    others = {name: Known(frozenset({"ssf"}), settings={"hflip": flip}) for name, flip in (("as", 0.0), ("flip", 0.5))}
    found = believe(Evidence.of(rows, LONG), known, others=others)
    plain = believe(Evidence.of(rows, LONG), known)
    assert {*found.keys} == {*known, *others}
    assert [found.of(key) for key in known] == [pytest.approx(plain.of(key)) for key in known]
    assert found.of("flip")[0] < found.of("as")[0] - 0.1  # no ssf had it
    assert found.of("as")[1] > found.of("ssf0")[1]
    assert found.ranked({"as": 1, "flip": 1}) == ["as", "flip"]


def test_a_short_training_says_little_of_a_method_that_learns_slowly() -> None:
    """Two candidates of one method are behind at first; where the one catches up, the other is believed to do so."""
    known = kin({"slow": "ssf", "slow too": "ssf", "weak": "lora", "fast": "adapter", "as fast": "adapter"})
    rows = [row(key, 0.6, SHORT) for key in ("slow", "slow too", "weak")]
    rows += [row(key, 0.7, SHORT) for key in ("fast", "as fast")]
    found = beliefs([*rows, row("slow", 0.95), row("fast", 0.8)], known)
    assert found["slow too"][0] > found["weak"][0] + 0.005


def test_a_repeat_on_the_same_images_tells_less_than_other_images_do() -> None:
    """Of candidates that were measured on all folds, a second deal of them leaves the images the same."""

    def error(repeat: int, folds: int) -> float:
        rows = [row(key, 0.8 + 0.05 * i, fold=fold) for i, key in enumerate("abcd") for fold in range(3)]
        for i, key in enumerate("abcd"):
            place = (Fidelity(LONG, 0, fold, folds, repeat) for fold in range(3))
            rows += [(key, fidelity, Measurement(0.8 + 0.05 * i, 200)) for fidelity in place]
        return believe(Evidence.of(rows, LONG), {}).error_of_difference("a", "d")

    assert error(repeat=1, folds=5) > 1.02 * error(repeat=0, folds=6)


def test_candidates_that_fail_on_the_same_images_are_told_apart_more_sharply_where_images_are_compared() -> None:
    rng, rows = np.random.default_rng(0), Rows()
    for fold in range(5):
        hard, other = rng.permutation(200), rng.permutation(200)
        twin = np.where(hard < 5, 199 - hard, np.where(hard >= 195, 199 - hard, hard))  # differs on ten images
        for key, order in (("a", hard), ("twin", twin), ("other", other)):
            rows.append((key, Fidelity(LONG, 0, fold, 5), Measurement(0.7, 200, tuple((order < 140).tolist()))))

    def errors(pairs: bool) -> tuple[float, float]:
        found = believe(Evidence.of(rows, LONG), {}, pairs)
        return found.error_of_difference("a", "twin"), found.error_of_difference("a", "other")

    alone, paired = errors(pairs=False), errors(pairs=True)
    assert alone[0] == pytest.approx(alone[1])
    assert paired[0] < 0.7 * paired[1]


def test_where_some_images_are_not_known_single_ones_do_not_count() -> None:
    rows = [row(key, 0.8 + 0.02 * i, fold=fold) for i, key in enumerate("abc") for fold in range(2)]
    key, fidelity, measured = rows[0]
    rows[0] = (key, fidelity, Measurement(measured.value, 200, (True,) * 160 + (False,) * 40))
    plain, paired = (believe(Evidence.of(rows, LONG), {}, pairs) for pairs in (False, True))
    np.testing.assert_array_equal(plain.mean, paired.mean)
