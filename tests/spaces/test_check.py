from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from space_cases import Case, cases, quick

from petlas.spaces import Space, SpaceError, check_space

LORA = {"blocks": "all", "sizes": [0, 4, 8]}


@quick
@given(cases())
def test_sound_spaces_have_no_faults(case: Case):
    assert check_space(case.data) == check_space(case.data, depth=case.depth) == []


@pytest.mark.parametrize(
    ("data", "start"),
    [
        ("lora", "a space must be a mapping"),
        (None, "a space must be a mapping"),
        ({}, "methods: must map at least one method"),
        ({"methods": {}}, "methods: must map at least one method"),
        ({"methods": ["lora"]}, "methods: must map at least one method"),
        ({"methods": {"lora": LORA}, "dept": [1]}, "dept: unknown key; did you mean 'depth'?"),
        ({"methods": {3: LORA}}, "methods.3: a method's name must be text"),
        ({"methods": {"lora": None}}, "methods.lora: must be a mapping"),
        ({"methods": {"lora": {"sizes": [1]}}}, "methods.lora.blocks: is missing"),
        ({"methods": {"lora": LORA | {"size": [1]}}}, "methods.lora.size: unknown key; did you mean 'sizes'?"),
        ({"methods": {"lora": LORA | {"blocks": []}}}, "methods.lora.blocks: must be all, backbone"),
        ({"methods": {"lora": LORA | {"blocks": "some"}}}, "methods.lora.blocks: must be all, backbone"),
        ({"methods": {"lora": LORA | {"blocks": [-1]}}}, "methods.lora.blocks: must be all, backbone"),
        ({"methods": {"lora": LORA | {"blocks": [True]}}}, "methods.lora.blocks: must be all, backbone"),
        ({"methods": {"lora": LORA | {"blocks": [1, 1]}}}, "methods.lora.blocks: names a block twice"),
        ({"methods": {"lora": LORA | {"blocks": "3-1"}}}, "methods.lora.blocks: a range goes from"),
        ({"methods": {"lora": LORA | {"blocks": [6]}}}, "methods.lora.blocks: names block 6, but the backbone has"),
        ({"methods": {"lora": LORA | {"blocks": "2-6"}}}, "methods.lora.blocks: names block 6, but the backbone has"),
        ({"methods": {"lora": LORA | {"sizes": []}}}, "methods.lora.sizes: must be a list of whole numbers"),
        ({"methods": {"lora": LORA | {"sizes": 4}}}, "methods.lora.sizes: must be a list of whole numbers"),
        ({"methods": {"lora": LORA | {"sizes": [0, -4]}}}, "methods.lora.sizes: must be whole numbers of at least 0"),
        ({"methods": {"lora": LORA | {"sizes": [0, 4.0]}}}, "methods.lora.sizes: must be whole numbers of at least 0"),
        ({"methods": {"lora": LORA | {"sizes": [0, True]}}}, "methods.lora.sizes: must be whole numbers of at least 0"),
        ({"methods": {"lora": LORA | {"sizes": [0, 4, 4]}}}, "methods.lora.sizes: must increase"),
        ({"methods": {"lora": LORA | {"sizes": [4, 0]}}}, "methods.lora.sizes: must increase"),
        ({"methods": {"lora": LORA | {"sizes": [0]}}}, "methods.lora.sizes: needs a number above 0"),
        ({"methods": {"lora": LORA | {"options": [1]}}}, "methods.lora.options: must be a mapping"),
        ({"methods": {"lora": LORA | {"options": {"a": [1]}}}}, "methods.lora.options.a: options must map"),
        ({"methods": {"lora": LORA}, "depth": 3}, "depth: must be a list of whole numbers"),
        ({"methods": {"lora": LORA}, "depth": [3, 3]}, "depth: must increase"),
        ({"methods": {"lora": LORA}, "depth": [3, 7]}, "depth: must be at most 6, the number of lora's blocks, got 7"),
        ({"methods": {"lora": LORA}, "depth": {"lor": [3]}}, "depth.lor: no such method; did you mean 'lora'?"),
        ({"methods": {"lora": LORA}, "depth": {"lora": [-1]}}, "depth.lora: must be whole numbers"),
        ({"methods": {"lora": LORA}, "depth": {"lora": [9]}}, "depth.lora: must be at most 6"),
        ({"methods": {"a": {"blocks": "backbone"}}, "depth": [1]}, "depth: no method is placed at blocks"),
        ({"methods": {"a": {"blocks": "backbone"}}, "depth": {"a": [1]}}, "depth.a: a is one choice over the whole"),
        ({"methods": {"lora": LORA | {"sizes": [4]}}, "depth": [3]}, "methods.lora.sizes: need 0 under a depth rule"),
    ],
)
def test_each_fault_is_named_with_its_path_and_refused(data: Any, start: str):
    faults = check_space(data, depth=6)
    assert len(faults) == 1
    assert faults[0].startswith(start)
    with pytest.raises(SpaceError) as caught:
        Space.from_dict(data, 6)
    assert faults[0] in str(caught.value)


def test_faults_of_settings_come_with_the_others():
    data = {"methods": {"lora": LORA | {"sizes": [0]}}, "settings": {"lr": {"low": 1}, "wieght_decay": [1, 0]}}
    known = ("lr", "weight_decay")
    paths = {fault.split(":")[0] for fault in check_space(data, ("lora",), known)}
    assert paths == {"methods.lora.sizes", "settings.lr.high", "settings.wieght_decay"}
    assert check_space({"methods": {"lora": LORA}, "settings": {"lr": [1e-3]}}, ("lora",), known) == []
    assert check_space({"methods": {"lora": LORA}, "settings": None}) == []
    with pytest.raises(SpaceError, match="did you mean 'weight_decay'"):
        Space.from_dict(data, 2, known_settings=known)


def test_all_faults_come_at_once():
    data = {"methods": {"lora": {"blocks": "x", "sizes": [0]}, "ssf": {"bloks": "all"}}, "depht": 1, "depth": {"s": []}}
    paths = {fault.split(":")[0] for fault in check_space(data)}
    methods = {"methods.lora.blocks", "methods.lora.sizes", "methods.ssf.bloks", "methods.ssf.blocks"}
    assert paths == methods | {"depht", "depth.s"}


def test_blocks_and_depths_beyond_the_backbone_pass_while_its_depth_is_unknown():
    data = {"methods": {"lora": LORA | {"blocks": "0-40"}, "vpt": LORA}, "depth": {"vpt": [41]}}
    assert check_space(data) == []
    assert len(check_space(data, depth=12)) == 2
    assert check_space({"methods": {"lora": LORA | {"blocks": [1, 2]}}, "depth": [3]}) != []


def test_unknown_methods_get_the_nearest_known_name():
    known = ("adapter", "lora", "vpt")
    assert check_space({"methods": {"lroa": LORA}}, known) == ["methods.lroa: unknown method; did you mean 'lora'?"]
    assert check_space({"methods": {"x": LORA}}, known) == ["methods.x: unknown method; known are adapter, lora, vpt"]
    assert check_space({"methods": {"x": LORA}}) == []
    with pytest.raises(SpaceError, match="did you mean 'lora'"):
        Space.from_dict({"methods": {"lroa": LORA}}, 2, known_methods=known)
