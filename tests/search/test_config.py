from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas.search.config import (
    ConfigError,
    Fault,
    RunConfig,
    apply_overrides,
    dump_config,
    find_config,
    load_config,
    read_yaml,
    space_of,
)

Write = Callable[..., Path]


def faults_of(path: Path | str, *overrides: str) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    for fault in caught.value.faults:
        assert str(fault) in str(caught.value)
    return {fault.path: fault for fault in caught.value.faults}


def test_a_sound_configuration_keeps_its_values_and_fills_in_defaults(write: Write) -> None:
    config = load_config(str(write()))
    assert (config.task.name, config.backbone.img_size, config.train.epochs) == ("digits", 32, 2)
    assert (config.train.lr, config.search.trials, config.seed) == (1e-3, 64, 0)
    assert config.folder == Path(config.runs) / "run"


def test_a_run_is_named_after_its_file_where_it_has_no_name(write: Write) -> None:
    assert load_config(str(write("trial.yaml", name=None))).name == "trial"


def test_short_forms_of_task_and_backbone(write: Write) -> None:
    config = load_config(str(write(task="digits", backbone="vit_mini_patch16_64")))
    assert (config.task.name, config.backbone.name) == ("digits", "vit_mini_patch16_64")


def test_numbers_that_yaml_reads_as_text_are_numbers(write: Write) -> None:
    path = write()
    path.write_text(path.read_text() + "\n".join(["", "budget: {params: 0}"]).replace("\n\n", "\n"))
    assert load_config(str(path), ["train.lr=3e-4", "train.weight_decay=0"]).train.lr == 3e-4


@pytest.mark.parametrize(
    ("override", "path", "value", "rule"),
    [
        ("trian.epochs=3", "trian", {"epochs": 3}, "did you mean train?"),
        ("train.epoch=3", "train.epoch", 3, "did you mean epochs?"),
        ("task.nmae=digits", "task.nmae", "digits", "did you mean name?"),
        ("train.zzz=3", "train.zzz", 3, "known: epochs, batch_size"),
        ("train.epochs=0", "train.epochs", 0, "greater than 0"),
        ("train.epochs=2.5", "train.epochs", 2.5, "valid integer"),
        ("train.epochs='2'", "train.epochs", "2", "valid integer"),
        ("train.epochs=true", "train.epochs", True, "valid integer"),
        ("train.lr=fast", "train.lr", "fast", "valid number"),
        ("train.lr=-1", "train.lr", -1, "greater than 0"),
        ("train.lr=.inf", "train.lr", float("inf"), "finite"),
        ("train.lr=true", "train.lr", True, "valid number"),
        ("train.label_smoothing=1", "train.label_smoothing", 1, "less than 1"),
        ("search.reduction=1", "search.reduction", 1, "greater than or equal to 2"),
        ("search.sampler=tep", "search.sampler", "tep", "'tpe', 'nsga2', 'random' or 'evolution'"),
        ("search.baselines=1", "search.baselines", 1, "valid boolean"),
        ("strategy=supernets", "strategy", "supernets", "'auto', 'trials', 'supernet' or 'sensitivity'"),
        ("search.evolution.population=9", "search.evolution.population", 9, "at least mutations + crossovers = 50"),
        ("supernet.sampling=sandwhich", "supernet.sampling", "sandwhich", "'single' or 'sandwich'"),
        ("sensitivity.criterion=snip", "sensitivity.criterion", "snip", "'spt', 'taylor' or 'fisher'"),
        ("space.prune=1", "space.prune", 1, "below 1"),
        ("supernet={epochs: 3, warmup_epochs: 3}", "supernet.warmup_epochs", 3, "less than supernet.epochs = 3"),
        ("budget.params=-1", "budget.params", -1, "greater than or equal to 0"),
        ("seed=-1", "seed", -1, "greater than or equal to 0"),
        ("seed=4294967296", "seed", 2**32, "less than"),
        ("name=a/b", "name", "a/b", "plain folder name"),
        ("name=..", "name", "..", "plain folder name"),
        ("train=5", "train", 5, "valid dictionary"),
        ("space=dmo", "space", "dmo", "did you mean demo?"),
        ("storage=study.db", "storage", "study.db", "database URL"),
        ("train.warmup_epochs=2", "train.warmup_epochs", 2, "less than train.epochs = 2"),
        ("search.grace_epochs=3", "search.grace_epochs", 3, "at most train.epochs = 2"),
    ],
)
def test_a_fault_is_told_with_its_path_its_value_and_the_rule(
    write: Write, override: str, path: str, value: Any, rule: str
) -> None:
    faults = faults_of(write(), override)
    assert list(faults) == [path]
    assert faults[path].value == value
    assert type(faults[path].value) is type(value)
    assert rule in faults[path].rule


def test_the_same_fault_in_the_file_is_told_alike(write: Write) -> None:
    in_file = faults_of(write(train={"epoch": 3}))
    assert in_file == faults_of(write(), "train.epoch=3")


def test_all_faults_are_listed_at_once_those_of_combinations_and_of_the_space_too(write: Write) -> None:
    space = {"methods": {"lorra": {"blocks": "all", "sizes": [1, 0]}}}
    path = write(task=None, trian={}, train={"warmup_epochs": 9, "lr": "x"}, space=space, search={"grace_epochs": 7})
    faults = faults_of(path, "seed=1.5")
    assert set(faults) == {
        "task",
        "trian",
        "train.lr",
        "train.warmup_epochs",
        "search.grace_epochs",
        "seed",
        "space.methods.lorra",
        "space.methods.lorra.sizes",
    }
    assert faults["task"].value == "missing"
    assert faults["space.methods.lorra.sizes"].value == [1, 0]
    assert "did you mean 'lora'?" in faults["space.methods.lorra"].rule


def test_overrides_set_nested_keys_as_yaml_and_win_over_the_file(write: Write) -> None:
    overrides = ["train.epochs=7", "search.baselines=true", "budget={params: 5}", "task.root=/x", "name=b=c"]
    config = load_config(str(write(task="digits")), overrides)
    assert (config.train.epochs, config.search.baselines, config.budget.params) == (7, True, 5)
    assert (config.task.name, config.task.root, config.name) == ("digits", "/x", "b=c")


def test_an_override_reaches_into_an_empty_group_and_into_an_inline_space(write: Write) -> None:
    path = write()
    path.write_text(path.read_text() + "budget:\n")
    config = load_config(str(path), ["budget.params=9", "space.methods.lora.sizes=[0, 4]"])
    assert config.budget.params == 9
    assert space_of(config)["methods"]["lora"]["sizes"] == [0, 4]


@pytest.mark.parametrize("override", ["train.epochs", "name.x.y=1", "=3", "train.=3", "train.lr=[1", "a=b: c: d"])
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


def test_a_space_that_petlas_ships_is_found_by_its_name(write: Write) -> None:
    config = load_config(str(write(space="demo")))
    assert space_of(config) == yaml.safe_load(find_config("demo", "spaces").read_text())


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


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n- 2", b"", b"a: \xff\xfe"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="must"):
        load_config(str(path))


def test_configurations_cannot_be_changed(make: Callable[..., RunConfig]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().seed = 3
