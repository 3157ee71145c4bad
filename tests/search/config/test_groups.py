from pathlib import Path

import pytest

from petlas.datasets.names import VTAB
from petlas.search.config import ConfigError, load_config, load_configs
from petlas.search.config.groups import chosen, members


def test_members_are_all_combinations_of_the_axes() -> None:
    found = members([{"task.name": ["a", "data/b/"]}, {"one": {"train.lr": 1}, "two": {"train.lr": 2, "seed": 3}}])
    assert [member.name for member in found] == ["a-one", "a-two", "b-one", "b-two"]
    assert found[3].settings == {"task.name": "data/b/", "train.lr": 2, "seed": 3}
    assert [member.name for member in chosen(found, "*-two")] == ["a-two", "b-two"]
    assert chosen(found, "c") == []


@pytest.mark.parametrize(
    ("axes", "rule"),
    [
        ([], "a list of axes"),
        ({"a": {}}, "a list of axes"),
        ([{}], "must have axes"),
        ([{"a": 3}], "and has 'a'"),
        ([{"seed": [1], "train.lr": [2]}], "and has 'seed'"),
        ([{"task.name": ["x/a", "y/a"]}], "a name of its own"),
    ],
)
def test_a_group_that_breaks_a_rule_is_told(axes: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        members(axes)


def test_a_pattern_names_members_and_each_has_its_own_run() -> None:
    found = load_configs("few_shot/food101-*-seed1", ["train.epochs=20", "task.root=/x"])
    assert [config.name for config in found] == [f"few_shot-food101-{n}shot-seed1" for n in (1, 2, 4, 8, 16)]
    assert [(c.task.shots, c.task.shot_seed) for c in found] == [(n, 1) for n in (1, 2, 4, 8, 16)]
    assert {(c.task.name, c.task.root, c.train.epochs) for c in found} == {("food101", "/x", 20)}


def test_one_member_is_one_configuration_and_may_be_named() -> None:
    config = load_config("vtab/dtd")
    assert (config.name, config.task.name) == ("vtab-dtd", "dtd")
    assert load_config("vtab/dtd", ["name=mine"]) == load_config("vtab", ["task.name=dtd", "name=mine"])
    assert load_configs("vtab/d*", ["name=mine"])[0].name == "mine-dtd"
    with pytest.raises(ConfigError, match=r"vtab/\*: CONFIG = 'vtab/\*': must be one run, and is 19"):
        load_config("vtab/*")


def test_a_configuration_with_a_group_is_also_one_for_itself() -> None:
    assert load_config("vtab", ["task.name=dtd"]).name == "vtab"
    assert [c.name for c in load_configs("vtab", ["task.name=[dtd, svhn]"])] == ["vtab-dtd", "vtab-svhn"]


def test_the_shipped_groups_are_sound() -> None:
    """All 99 of them: 19 tasks of VTAB-1k, 5 of FGVC, 5 few-shot sets x 5 numbers of shots x 3 drawings."""
    found = {group: load_configs(f"{group}/*") for group in ("vtab", "fgvc", "few_shot")}
    assert {group: len(configs) for group, configs in found.items()} == {"vtab": 19, "fgvc": 5, "few_shot": 75}
    assert [config.task.name for config in found["vtab"]] == list(VTAB)
    assert len({config.name for configs in found.values() for config in configs}) == 99


def test_what_is_no_member_and_what_has_no_group_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a member of the group vtab; did you mean dtd\?"):
        load_configs("vtab/dtt")
    with pytest.raises(ConfigError, match="demo has no group"):
        load_configs("demo/x")
    with pytest.raises(ConfigError, match="must be a YAML file or a known name"):
        load_configs("nowhere/x")
    (tmp_path / "g.yaml").write_text("task: digits\ngroup: [{a: {task.name.x.y: 1}}]\n")
    with pytest.raises(ConfigError, match=r"group = 'task\.name\.x\.y': must be a key, with dots between groups"):
        load_configs(f"{tmp_path}/g.yaml/a")
    (tmp_path / "g.yaml").write_text("task: digits\ngroup: [{a: {train.epoch: 1}}]\n")
    with pytest.raises(ConfigError, match=r"train\.epoch = 1: unknown key; did you mean epochs\?"):
        load_configs(f"{tmp_path}/g.yaml/a")
    (tmp_path / "g.yaml").write_text("task: digits\ngroup: 3\n")
    with pytest.raises(ConfigError, match="group = 3: must be a list of axes"):
        load_configs(f"{tmp_path}/g.yaml/*")
