from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from space_cases import quick

from petlas.errors import UserError
from petlas.petl.design import Design, DesignError, Placement
from petlas.spaces import Candidate, SpaceError

DESIGN = Design((Placement("lora", 0, 8), Placement("vpt", 3, 5)), "vit")
VALUES = st.dictionaries(
    st.sampled_from(["lr", "weight_decay", "drop"]), st.floats(allow_nan=False, allow_infinity=False)
)


@quick
@given(VALUES)
def test_plain_data_gives_the_same_candidate_back_also_through_yaml(settings: dict[str, float]):
    candidate = Candidate(DESIGN, settings)  # type: ignore[arg-type]
    for data in (candidate.to_dict(), yaml.safe_load(yaml.safe_dump(candidate.to_dict()))):
        again = Candidate.from_dict(data)
        assert again == candidate
        assert again.key == candidate.key
        assert hash(again) == hash(candidate)


@quick
@given(VALUES, VALUES)
def test_equal_candidates_have_equal_keys_and_others_do_not(a: dict[str, float], b: dict[str, float]):
    first, second = Candidate(DESIGN, tuple(a.items())), Candidate(DESIGN, tuple(reversed(b.items())))
    assert (first.key == second.key) == (first == second) == (a == b)


def test_a_candidate_without_settings_has_the_key_and_the_data_of_its_design():
    candidate = Candidate(DESIGN)
    assert candidate.key == DESIGN.key
    assert candidate.to_dict() == DESIGN.to_dict()
    assert Candidate.from_dict(DESIGN.to_dict()) == candidate
    assert Candidate.from_dict(DESIGN.to_dict() | {"settings": {}}) == candidate
    assert Candidate(DESIGN, (("lr", 1e-3),)).key != DESIGN.key
    assert Candidate(Design(), (("lr", 1e-3),)).key != Candidate(DESIGN, (("lr", 1e-3),)).key


def test_the_key_of_a_candidate_stays():
    assert Candidate(Design((Placement("lora", 0, 8),)), (("lr", 3e-3),)).key == "74fa6ba979a72ec3"


def test_equal_numbers_are_written_alike():
    settings = [{"lr": value} for value in (1, 1.0, np.float64(1), "1", "1e0")]
    assert len({Candidate(DESIGN, s).key for s in settings}) == 1  # type: ignore[arg-type]
    zero = Candidate(DESIGN, (("lr", -0.0),))
    assert math.copysign(1, zero.settings[0][1]) == 1
    assert zero.key == Candidate(DESIGN, (("lr", 0),)).key


def test_a_file_may_write_numbers_as_yaml_1_1_reads_them_as_text(tmp_path: Path):
    path = tmp_path / "design.yaml"
    path.write_text("placements:\n  - {method: lora, block: 0, size: 8}\nsettings: {lr: 3e-3}\n", encoding="utf-8")
    candidate = Candidate.load(path)
    assert candidate == Candidate(Design((Placement("lora", 0, 8),)), (("lr", 0.003),))
    with pytest.raises(SpaceError, match=r"cannot read a candidate from .*none\.yaml"):
        Candidate.load(tmp_path / "none.yaml")
    path.write_text("placements: [", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"cannot read a candidate from .*design\.yaml"):
        Candidate.load(path)


def test_a_candidate_reads_as_its_design_and_its_settings():
    assert str(Candidate(DESIGN)) == str(DESIGN)
    shown = str(Candidate(DESIGN, (("weight_decay", 1e-5), ("lr", 0.00312345))))
    assert shown == "lora 8 | vpt -,-,-,5 | lr 0.003123 | weight_decay 1e-05"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "fast"}, "settings.lr: must be a finite number such as 3e-3, got 'fast'"),
        ({"lr": True}, "settings.lr: must be a finite number"),
        ({"lr": float("nan")}, "settings.lr: must be a finite number"),
        ({3: 1.0}, "settings must map names to numbers, got 3: 1.0"),
        ((("lr", 1.0), ("lr", 2.0)), "a setting can be set once"),
        (("rate",), "settings must map names to numbers, got settings="),
        (3, "settings must map names to numbers, got settings=3"),
    ],
)
def test_settings_that_break_a_rule_are_refused(settings: Any, message: str):
    with pytest.raises(SpaceError, match=message):
        Candidate(DESIGN, settings)


def test_data_that_is_no_candidate_is_refused():
    with pytest.raises(SpaceError, match="a candidate is a mapping"):
        Candidate.from_dict([])  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"settings must be a mapping such as {lr: 3e-3}, got settings=\[1\]"):
        Candidate.from_dict({"placements": [], "settings": [1]})
    with pytest.raises(DesignError, match="a design is a mapping"):
        Candidate.from_dict({"placements": [], "setings": {"lr": 1}})
    with pytest.raises(SpaceError, match="must be of the class Design"):
        Candidate({"placements": []})  # type: ignore[arg-type]
    assert issubclass(SpaceError, UserError)


def test_a_file_of_something_else_is_named_with_the_keys_that_it_has(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("task: digits\nspace: {methods: {}}\n")
    with pytest.raises(
        DesignError, match=r"run\.yaml: a design is a mapping .*, got the keys task, space; best/design"
    ):
        Candidate.load(file)


def test_some_settings_are_set_and_the_others_stay():
    candidate = Candidate(Design(()), {"lr": 1e-3, "hflip": 0.5})
    assert dict(candidate.with_settings({"hflip": 0, "shift": 0.1}).settings) == {"lr": 1e-3, "hflip": 0, "shift": 0.1}
    assert candidate.with_settings({}) == candidate
    with pytest.raises(SpaceError, match=r"settings\.lr"):
        candidate.with_settings({"lr": math.nan})
