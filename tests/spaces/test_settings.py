from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from space_cases import LR, quick, settings

from petlas.spaces import Choices, Range, Space, SpaceError
from petlas.spaces.settings import check_settings, number, parse_settings

RATE = Range("lr", 3e-4, 2e-2, log=True)


@quick
@given(settings(), st.integers(0, 2**32))
def test_what_is_drawn_or_stepped_to_may_be_chosen_and_has_one_parameter(spec: dict[str, Any], seed: int):
    rng = np.random.default_rng(seed)
    assert check_settings(spec) == []
    for setting in parse_settings(spec):
        value = setting.draw(rng)
        other = setting.step(value, rng)
        for chosen in (value, other):
            assert chosen in setting
            parameter = setting.parameter(chosen)
            assert setting.ends[0] <= parameter <= setting.ends[1]
            assert setting.value(parameter) == chosen
            assert setting.suggest(FixedTrial({setting.name: parameter})) == chosen
        assert (other != value) == (setting.options is None or len(setting.options) > 1)


def test_a_log_range_is_drawn_log_uniformly_and_another_uniformly():
    rng = np.random.default_rng(0)
    for log in (True, False):
        drawn = [Range("lr", 1e-4, 1e-2, log).draw(rng) for _ in range(2000)]
        assert np.mean(np.array(drawn) < 1e-3) == pytest.approx(0.5 if log else 0.0909, abs=0.04)
        assert 1e-4 <= min(drawn) < max(drawn) <= 1e-2


def test_a_step_in_a_log_range_is_log_normal():
    rng, middle = np.random.default_rng(0), math.sqrt(3e-4 * 2e-2)
    factors = np.log([RATE.step(middle, rng) / middle for _ in range(2000)])
    assert np.mean(factors) == pytest.approx(0, abs=0.05)
    assert np.std(factors) == pytest.approx(0.15 * math.log(2e-2 / 3e-4), rel=0.1)


@pytest.mark.parametrize("end", [3e-4, 2e-2])
def test_steps_at_an_end_turn_back_and_do_not_pile_up_there(end: float):
    rng = np.random.default_rng(0)
    stepped = [RATE.step(end, rng) for _ in range(200)]
    assert all(value in RATE for value in stepped)
    assert sum(value == end for value in stepped) == 0


def test_choices_are_drawn_and_stepped_to_equally_often():
    rng, choices = np.random.default_rng(0), Choices("lr", (1e-3, 2e-3, 4e-3))
    assert {choices.draw(rng) for _ in range(50)} == set(choices.values)
    assert {choices.step(2e-3, rng) for _ in range(50)} == {1e-3, 4e-3}
    assert Choices("lr", (1.0,)).step(1.0, rng) == 1.0
    assert (choices.parameter(2e-3), choices.value(2), choices.value(9), choices.value(-1)) == (1, 4e-3, 4e-3, 1e-3)


def test_values_outside_are_clipped_and_not_contained():
    assert (RATE.value(1), RATE.value(0), RATE.value(1e-3)) == (2e-2, 3e-4, 1e-3)
    assert 1e-3 in RATE
    assert 1e-1 not in RATE
    assert "1e-3" not in RATE
    assert 5e-3 not in Choices("lr", (1e-3,))


@pytest.mark.parametrize(
    ("spec", "start"),
    [
        (None, "settings: must map names to ranges"),
        (["lr"], "settings: must map names to ranges"),
        ({3: LR}, "settings.3: a setting's name must be text"),
        ({"lr": 1e-3}, "settings.lr: must be {low: 3e-4"),
        ({"lr": "1e-3"}, "settings.lr: must be {low: 3e-4"),
        ({"lr": {"low": 1e-3}}, "settings.lr.high: is missing; write {low"),
        ({"lr": LR | {"hig": 1}}, "settings.lr.hig: unknown key; did you mean 'high'?"),
        ({"lr": LR | {"low": "a"}}, "settings.lr.low: must be a finite number such as 3e-3, got 'a'"),
        ({"lr": LR | {"low": True}}, "settings.lr.low: must be a finite number"),
        ({"lr": LR | {"high": float("inf")}}, "settings.lr.high: must be a finite number"),
        ({"lr": LR | {"log": 1}}, "settings.lr.log: must be true or false, got 1"),
        ({"lr": LR | {"low": 2e-2}}, "settings.lr.high: must be above low=0.02, got 0.02; for one value, write [0.02]"),
        ({"lr": LR | {"low": 0}}, "settings.lr.low: must be above 0 on a log scale, got 0"),
        ({"lr": []}, "settings.lr: needs a number at least, got []"),
        ({"lr": [1e-3, "x"]}, "settings.lr: must be a finite number such as 3e-3, got 'x' in [0.001, 'x']"),
        (
            {"lr": [2e-3, 1e-3]},
            "settings.lr: must increase, each number once, got [0.002, 0.001]; write [0.001, 0.002]",
        ),
        ({"lr": [1e-3, 1e-3]}, "settings.lr: must increase, each number once"),
    ],
)
def test_each_fault_is_named_with_its_path_and_refused(spec: Any, start: str):
    faults = check_settings(spec)
    assert len(faults) == 1
    assert faults[0].startswith(start)
    data = {"methods": {"lora": {"blocks": "all", "sizes": [0, 4]}}, "settings": spec}
    if spec is not None:
        with pytest.raises(SpaceError) as caught:
            Space.from_dict(data, 6)
        assert faults[0] in str(caught.value)


def test_all_faults_come_at_once():
    faults = check_settings({"lr": {"low": "x", "hihg": 1}, "drop": [], "wd": 1})
    paths = {fault.split(":")[0] for fault in faults}
    assert paths == {"settings.lr.low", "settings.lr.hihg", "settings.lr.high", "settings.drop", "settings.wd"}


def test_unknown_settings_get_the_nearest_known_name():
    known = ("lr", "weight_decay")
    assert check_settings({"lr": [1]}, known) == []
    assert check_settings({"wieght_decay": [1]}, known) == [
        "settings.wieght_decay: unknown setting; did you mean 'weight_decay'?"
    ]


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert parse_settings({"lr": {"low": "3e-4", "high": "2e-2", "log": True}}) == (RATE,)
    assert parse_settings({"lr": ["1e-3", 2]}) == (Choices("lr", (1e-3, 2.0)),)
    assert number("3e-3") == 3e-3
    assert math.copysign(1, number("-0")) == 1


@pytest.mark.parametrize("value", [True, None, "", "x", float("nan"), "inf", [1], 10**400])
def test_what_is_no_finite_number_is_refused(value: Any):
    with pytest.raises(SpaceError, match="must be a finite number"):
        number(value)


def test_hand_made_settings_are_checked():
    with pytest.raises(SpaceError, match=r"lr.high: must be above low=1, got 0"):
        Range("lr", 1, 0)
    with pytest.raises(SpaceError, match="lr: must increase"):
        Choices("lr", (2.0, 1.0))
    assert Range("lr", 0, 1) == Range("lr", 0.0, 1.0)
    assert [type(end) for end in Range("lr", 0, 1).ends] == [float, float]


def test_the_value_next_to_any_other_may_be_chosen():
    assert [Range("lr", 1e-3, 1e-2).nearest(value) for value in (0.0, 5e-3, 1.0)] == [1e-3, 5e-3, 1e-2]
    assert [Choices("lr", (1.0, 2.0, 8.0)).nearest(value) for value in (-1.0, 1.5, 4.0, 9.0)] == [1.0, 1.0, 2.0, 8.0]


def test_a_place_is_along_the_scale_from_one_end_to_the_other():
    assert [Range("lr", 1e-4, 1e-2, log=True).place(v) for v in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert Range("lr", 0.0, 2.0).place(0.5) == 0.25
    assert [Choices("lr", (1.0, 3.0, 30.0)).place(v) for v in (1.0, 3.0, 30.0)] == [0, 0.5, 1]
    assert Choices("lr", (1.0,)).place(1.0) == 0


def test_a_range_as_narrow_as_rounding_is_refused():
    with pytest.raises(SpaceError, match=r"lr.high: must be above low=1e-05"):
        Range("lr", 1e-5, 1.0000000000000003e-05, log=True)
