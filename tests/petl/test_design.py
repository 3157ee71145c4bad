from __future__ import annotations

import copy
import json
import os
import pickle
import random
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from petlas.petl.design import Design, DesignError, Placement

LORA = {"method": "lora", "block": 0, "size": 8}
ADAPTER = {"method": "adapter", "block": 3, "size": 4, "options": {"dropout": 0.1}}
SSF = {"method": "ssf"}

values = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4))
placements = st.builds(
    Placement,
    st.sampled_from(["lora", "adapter", "vpt", "any other"]),
    st.none() | st.integers(0, 11),
    st.none() | st.integers(1, 100),
    st.dictionaries(st.text(max_size=4), values, max_size=3),
)


@st.composite
def designs(draw):
    chosen = {}
    for placement in draw(st.lists(placements, max_size=8)):
        whole = (placement.method, None)
        same = any(method == placement.method for method, _ in chosen)
        if whole not in chosen and not (placement.block is None and same):
            chosen.setdefault((placement.method, placement.block), placement)
    return Design.of(chosen.values(), draw(st.none() | st.text(min_size=1, max_size=5)))


def design(*entries, **more):
    return Design.from_dict({"placements": list(entries)} | more)


@settings(max_examples=40, deadline=None)
@given(designs())
def test_a_design_survives_dict_json_yaml_and_pickle(one):
    data = one.to_dict()
    for back in (data, json.loads(json.dumps(data)), yaml.safe_load(yaml.safe_dump(data))):
        again = Design.from_dict(back)
        assert again == one and hash(again) == hash(one) and again.key == one.key and again.to_dict() == data
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)


@settings(max_examples=50, deadline=None)
@given(designs(), st.randoms(use_true_random=False))
def test_order_does_not_matter(one, dice):
    entries = one.to_dict()["placements"]
    dice.shuffle(entries)

    def mixed(data):
        return {key: mixed(data[key]) if key == "options" else data[key] for key in dice.sample(list(data), len(data))}

    shuffled = [mixed(entry) for entry in entries]
    other = Design.from_dict({"placements": shuffled, "backbone": one.backbone})
    assert other == one and hash(other) == hash(one) and other.key == one.key


def test_the_order_of_options_does_not_matter():
    one, other = (design(LORA | {"options": options}) for options in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one == other and hash(one) == hash(other) and one.key == other.key


@settings(max_examples=50, deadline=None)
@given(designs(), designs())
def test_keys_are_equal_exactly_where_designs_are(one, other):
    assert (one == other) is (one.key == other.key)


@pytest.mark.parametrize(("one", "other"), [(8, 8.0), (0, -0.0), (1, True), (0, False)])
def test_equal_options_give_equal_keys_however_they_are_written(one, other):
    a, b = (design(LORA | {"options": {"alpha": value}}) for value in (one, other))
    assert a == b and hash(a) == hash(b) and a.key == b.key


def test_the_key_is_pinned_so_that_studies_stay_readable():
    assert design(LORA, ADAPTER, SSF, backbone="vit_base_patch16_224.augreg_in21k").key == "d3b5b34a99403ee7"
    assert design().key == "b1b1ba9f3d210812"


def test_the_key_does_not_depend_on_the_process():
    code = (
        "from petlas.petl.design import Design;"
        "print(Design.from_dict({'placements': [{'options': {'b': 1, 'a': 2}, 'size': 8, 'method': 'lora', 'block': 0}"
        ", {'method': 'ssf'}]}).key)"
    )
    here = design(SSF, LORA | {"options": {"a": 2, "b": 1}}).key
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


@pytest.mark.parametrize(
    "change",
    [{"block": 1}, {"size": 9}, {"method": "adapter"}, {"options": {"alpha": 4}}, {"block": None}, {"size": None}],
)
def test_every_field_counts_in_the_key(change):
    assert design(LORA | change).key != design(LORA).key
    assert design(LORA | change) != design(LORA)


def test_the_backbone_counts_in_the_key():
    assert len({design(LORA).key, design(LORA, backbone="a").key, design(LORA, backbone="b").key}) == 3


def test_a_design_is_hashable_and_immutable():
    one = design(LORA, ADAPTER)
    assert {one: 1}[design(ADAPTER, LORA)] == 1
    with pytest.raises(AttributeError):
        one.placements = ()
    with pytest.raises(AttributeError):
        one.placements[0].size = 3


def test_a_design_can_be_made_of_any_iterable():
    assert Design.of(Placement.from_dict(d) for d in (ADAPTER, LORA)) == design(LORA, ADAPTER)
    assert Design(iter([Placement("lora", 0, 8)])) == design(LORA)


def test_placements_are_grouped_by_method_in_the_order_of_the_blocks():
    entries = [{"method": m, "block": b, "size": 2} for m in ("vpt", "lora") for b in range(12)]
    random.Random(0).shuffle(entries)
    groups = design(*entries).by_method
    assert list(groups) == ["lora", "vpt"]
    assert [p.block for p in groups["vpt"]] == list(range(12))


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([LORA, LORA], "got lora twice at block 0"),
        ([LORA, LORA | {"size": 4}], "got lora twice at block 0"),
        ([LORA | {"options": {"a": 1}}, LORA | {"options": {"a": "x"}}], "got lora twice at block 0"),
        ([LORA, LORA | {"size": None}], "got lora twice at block 0"),
        ([SSF, SSF], "got ssf twice at the whole backbone"),
        ([SSF, {"method": "ssf", "block": 3}], "got ssf twice at the whole backbone"),
    ],
)
def test_two_placements_at_one_place_are_refused(entries, match):
    with pytest.raises(DesignError, match=f"a method can be placed once at a place, {match}"):
        design(*entries)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"method": "lora", "rank": 8}, "unknown key 'rank'; its keys are method, block, size, options"),
        ({"block": 0}, "no 'method'"),
        ({"method": 3}, "method must be a method's name, got method=3"),
        ({"method": ""}, "method must be a method's name, got method=''"),
        ({"method": None}, "method must be a method's name, got method=None"),
        (LORA | {"block": -1}, "block must be a whole number of at least 0, got block=-1"),
        (LORA | {"block": "0"}, "block must be a whole number of at least 0, got block='0'"),
        (LORA | {"block": True}, "block must be a whole number of at least 0, got block=True"),
        (LORA | {"size": 0}, "size must be a whole number of at least 1, got size=0"),
        (LORA | {"size": 8.0}, "size must be a whole number of at least 1, got size=8.0"),
        (LORA | {"size": True}, "size must be a whole number of at least 1, got size=True"),
        (LORA | {"options": {"alpha": [1]}}, r"options must map names to plain values, got 'alpha': \[1\]"),
        (LORA | {"options": {"alpha": None}}, "options must map names to plain values, got 'alpha': None"),
        (LORA | {"options": {1: 2}}, "options must map names to plain values, got 1: 2"),
        (LORA | {"options": {1: 2, "a": 3}}, "options must map names to plain values, got 1: 2"),
        (LORA | {"options": {"alpha": float("nan")}}, "options must be finite numbers, got alpha=nan"),
        (LORA | {"options": {"alpha": float("inf")}}, "options must be finite numbers, got alpha=inf"),
        (LORA | {"options": 5}, "options must be a mapping of names to values, got options=5"),
        (LORA | {"options": 0}, "options must be a mapping of names to values, got options=0"),
        (LORA | {"options": "abc"}, "options must be a mapping of names to values, got options='abc'"),
        (LORA | {"options": [1]}, r"options must be a mapping of names to values, got options=\[1\]"),
        ("lora", "a placement is a mapping such as .*, got 'lora'"),
        (None, "a placement is a mapping such as .*, got None"),
    ],
)
def test_a_bad_placement_is_refused_with_the_rule_and_the_value(entry, match):
    with pytest.raises(DesignError, match=match):
        design(entry)


@pytest.mark.parametrize("options", [5, "abc", [1], [("a",)], [("a", 1, 2)]])
def test_options_that_are_no_pairs_are_refused_in_python_too(options):
    with pytest.raises(DesignError, match="options must map names to plain values, got options="):
        Placement("lora", 0, 8, options)


def test_an_option_set_twice_is_refused():
    with pytest.raises(DesignError, match="an option can be set once"):
        Placement("lora", 0, 8, (("alpha", 1), ("alpha", 2)))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (None, "a design is a mapping with the keys backbone and placements, got None"),
        ([LORA], "a design is a mapping"),
        ({"placement": [LORA]}, "a design is a mapping with the keys backbone and placements"),
        ({"placements": LORA}, "placements must be a list, got placements={"),
        ({"placements": {}}, "placements must be a list, got placements={}"),
        ({"placements": 0}, "placements must be a list, got placements=0"),
        ({"placements": "lora"}, "placements must be a list, got placements='lora'"),
        ({"backbone": 5}, "backbone must be a timm name, got backbone=5"),
        ({"backbone": ""}, "backbone must be a timm name, got backbone=''"),
        ({"backbone": ["a"]}, "backbone must be a timm name"),
    ],
)
def test_a_bad_design_is_refused_with_the_rule_and_the_value(data, match):
    with pytest.raises(DesignError, match=match):
        Design.from_dict(data)


def test_a_design_of_dicts_is_refused_with_a_hint():
    with pytest.raises(DesignError, match=r"see Design\.from_dict"):
        Design((LORA,))


def test_to_dict_leaves_out_what_is_not_set():
    assert design(SSF).to_dict() == {"placements": [{"method": "ssf"}]}
    assert design(ADAPTER, backbone="b").to_dict() == {"backbone": "b", "placements": [ADAPTER]}
    assert Design.from_dict({}) == Design.from_dict({"placements": None, "backbone": None}) == Design()


def test_a_yaml_file_is_read(tmp_path):
    file = tmp_path / "design.yaml"
    file.write_text("backbone: vit\nplacements:\n  - {method: lora, block: 0, size: 8}\n  - {method: ssf}\n")
    assert Design.load(file) == Design.load(str(file)) == design(LORA, SSF, backbone="vit")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"placements: [", "cannot read a design from .*design.yaml"),
        (b"placements: \xff\xfe", "cannot read a design from .*design.yaml"),
        (b"!!python/object/apply:os.getcwd []", "cannot read a design from .*design.yaml"),
        (b"", "a design is a mapping"),
        (b"placements: [{method: lora, blok: 0}]", "unknown key 'blok'"),
    ],
)
def test_a_bad_yaml_file_is_refused(content, match, tmp_path):
    file = tmp_path / "design.yaml"
    file.write_bytes(content)
    with pytest.raises(DesignError, match=match):
        Design.load(file)


def test_a_missing_yaml_file_is_refused(tmp_path):
    with pytest.raises(DesignError, match=r"cannot read a design from .*none.yaml"):
        Design.load(tmp_path / "none.yaml")


def test_a_design_prints_as_one_line():
    one = design(LORA, LORA | {"block": 2, "size": 4}, SSF, {"method": "bitfit", "block": 1})
    assert str(one) == "bitfit -,x | lora 8,-,4 | ssf"
    assert str(Design()) == "linear"


def test_designs_come_without_torch():
    code = (
        "import sys; import petlas.petl; from petlas.petl import Design, BackboneShape, METHODS;"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules; print(len(METHODS))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_all_exist():
    import petlas.petl

    assert all(hasattr(petlas.petl, name) for name in petlas.petl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = petlas.petl.nothing


def test_a_long_design_of_which_all_blocks_are_alike_is_told_shortly():
    def told(*sizes, method="lora"):
        return str(Design.of(Placement(method, block, size) for block, size in enumerate(sizes)))

    assert told(*[21] * 12) == "lora 21 x12"
    assert told(*[None] * 12, method="ssf") == "ssf x x12"
    assert told(*[6] * 6) == "lora 6,6,6,6,6,6"
    assert told(*[6] * 7, 5) == "lora 6,6,6,6,6,6,6,5"
