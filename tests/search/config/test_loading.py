from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import petlas
from petlas.search.config import (
    ConfigError,
    Fault,
    apply_overrides,
    dump_config,
    find_config,
    load_config,
    load_configs,
    read_yaml,
    space_of,
)

Write = Callable[..., Path]
FaultsOf = Callable[..., dict[str, Fault]]


def test_a_run_is_named_after_its_file_where_it_has_no_name(write: Write) -> None:
    assert load_config(str(write("trial.yaml", name=None))).name == "trial"


def test_the_same_fault_in_the_file_is_told_alike(write: Write, faults_of: FaultsOf) -> None:
    in_file = faults_of(write(train={"epoch": 3}))
    assert in_file == faults_of(write(), "train.epoch=3")


def test_overrides_set_nested_keys_as_yaml_and_win_over_the_file(write: Write) -> None:
    overrides = ["train.epochs=7", "search.baselines=true", "budget={params: 5}", "task.root=/x", "name=b=c"]
    config = load_config(str(write(task="digits")), overrides)
    assert (config.train.epochs, config.search.baselines, config.budget.params) == (7, True, 5)
    assert (config.task.name, config.task.root, config.name) == ("digits", "/x", "b=c")


def test_blanks_around_the_equals_sign_of_one_override_are_no_part_of_it(write: Write) -> None:
    assert load_config(str(write()), ["name = x", "train.epochs =7"]).name == "x"


def test_an_override_reaches_into_an_empty_group_and_into_an_inline_space(write: Write) -> None:
    path = write()
    path.write_text(path.read_text() + "budget:\n")
    config = load_config(str(path), ["budget.params=9", "space.methods.lora.sizes=[0, 4]"])
    assert config.budget.params == 9
    assert space_of(config)["methods"]["lora"]["sizes"] == [0, 4]


@pytest.mark.parametrize(
    "override", ["train.epochs", "name.x.y=1", "=3", " = 3", "train.=3", "train.lr=[1", "a=b: c: d", "name=\x01"]
)
def test_what_is_no_override_is_refused(write: Write, override: str) -> None:
    with pytest.raises(ConfigError, match="command line"):
        load_config(str(write()), [override])


def test_every_broken_override_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({}, ["a", "b=[", "c=1"])
    assert [fault.path for fault in caught.value.faults] == ["a", "b"]


def test_the_resolved_configuration_loads_as_itself_without_the_space_file(write: Write, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("methods: {lora: {blocks: all, sizes: [0, 3]}}")
    config = load_config(str(write(space=str(space))), ["train.lr=3e-4"])
    assert space_of(config) == {"methods": {"lora": {"blocks": "all", "sizes": [0, 3]}}}
    space.unlink()
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_config(config))
    assert load_config(str(resolved)) == config


def test_the_resolved_configuration_says_which_petlas_wrote_it_and_names_as_they_are(write: Write) -> None:
    text = dump_config(load_config(str(write(name="日本 [x]"))))
    assert yaml.safe_load(text)["version"] == petlas.__version__
    assert "日本" in text


def test_the_version_in_a_file_is_no_setting_and_cannot_be_overridden(write: Write, faults_of: FaultsOf) -> None:
    path = write()
    path.write_text(path.read_text() + "version: 0.0.1\n")
    assert load_config(str(path)) == load_config(str(write("same.yaml")))
    assert "unknown key" in faults_of(path, "version=3")["version"].rule


def test_a_space_that_petlas_ships_is_found_by_its_name(write: Write) -> None:
    config = load_config(str(write(space="demo")))
    assert space_of(config) == yaml.safe_load(find_config("demo", "spaces").read_text())


def test_an_unknown_space_is_told_with_the_nearest(write: Write, faults_of: FaultsOf) -> None:
    faults = faults_of(write(), "space=dmo")
    assert list(faults) == ["space"]
    assert faults["space"].value == "dmo"
    assert "did you mean demo?" in faults["space"].rule


def test_a_configuration_is_found_by_path_before_the_shipped_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_config("demo").parent.name == "configs"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("name: mine")
    assert read_yaml(find_config("demo")) == {"name": "mine"}


def test_an_unknown_configuration_names_the_nearest_or_all() -> None:
    with pytest.raises(ConfigError, match=r"did you mean demo\?"):
        find_config("demoo")
    with pytest.raises(ConfigError, match=r"shipped with petlas: .*demo"):
        find_config("nothing-like-it")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ""])
def test_a_name_that_no_file_can_have_is_an_unknown_configuration(name: str) -> None:
    with pytest.raises(ConfigError, match="must be a YAML file or a known name"):
        find_config(name)


@pytest.mark.parametrize(
    "content", [b"a: [", b"- 1\n- 2", b"", b"a: \xff\xfe", b"1: x", b"a: 1\na: 2", b"t: {e: 1, e: 2}", b"[" * 5000]
)
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="must"):
        load_config(str(path))


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\ntrain: {epochs: 3}\nseed: 1\ntrain: {lr: 1}\n")
    with pytest.raises(ConfigError, match="the key 'train' stands there twice, again on line 4"):
        load_config(str(path))


def test_a_key_that_is_no_text_is_refused_wherever_it_stands(write: Write) -> None:
    path = write()
    path.write_text(path.read_text() + "budget: {1: 2}\n")
    with pytest.raises(ConfigError, match="budget"):
        load_config(str(path))


def test_a_list_of_tasks_is_a_run_for_each(write: Write) -> None:
    path = str(write(name="all"))
    assert load_configs(path) == [load_config(path)]
    found = load_configs(path, ["task.name=[dtd, data/mine/]", "task.root=/x", "train.epochs=7"])
    assert [(c.name, c.task.name, c.task.root, c.train.epochs) for c in found] == [
        ("all-dtd", "dtd", "/x", 7),
        ("all-mine", "data/mine/", "/x", 7),
    ]
    with pytest.raises(ConfigError, match=r"task\.name = \[\]: must be the name of a task, or a list of names"):
        load_configs(path, ["task.name=[]"])
    with pytest.raises(ConfigError, match=r"task\.name"):
        load_configs(path, ["task.name=[dtd, 3]"])
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        load_configs(path, ["task.name=[dtd, svhn]", "train.epochs=0"])
