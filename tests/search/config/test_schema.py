from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.search.config import SETTINGS, ConfigError, Fault, RunConfig, TrainConfig, load_config, schema
from petlas.search.samplers import SAMPLERS
from petlas.search.strategies import STRATEGIES

Write = Callable[..., Path]
FaultsOf = Callable[..., dict[str, Fault]]


def test_a_sound_configuration_keeps_its_values_and_fills_in_defaults(write: Write) -> None:
    config = load_config(str(write()))
    assert (config.task.name, config.backbone.img_size, config.train.epochs) == ("digits", 32, 2)
    assert (config.train.lr, config.search.trials, config.seed) == (1e-3, 64, 0)
    assert config.folder == Path(config.runs) / "run"


def test_defaults_leave_numbers_as_they_were(write: Write) -> None:
    config = load_config(str(write(resources=None)))
    assert (config.task.metric, config.task.split_seed, config.search.objectives) == (None, 0, ["accuracy"])
    assert (config.protocol.folds, config.protocol.finalists) == (None, 5)
    assert (config.backbone.mean, config.backbone.std, config.backbone.interpolation) == (None, None, None)
    assert not config.train.deterministic
    assert not config.search.retry_failed
    assert config.resources.runner == "auto"


def test_short_forms_of_task_and_backbone(write: Write) -> None:
    config = load_config(str(write(task="digits", backbone="vit_mini_patch16_64")))
    assert (config.task.name, config.backbone.name) == ("digits", "vit_mini_patch16_64")


def test_numbers_that_yaml_reads_as_text_are_numbers(write: Write) -> None:
    path = write()
    path.write_text(path.read_text() + "\n".join(["", "budget: {params: 0}"]).replace("\n\n", "\n"))
    assert load_config(str(path), ["train.lr=3e-4", "train.weight_decay=0"]).train.lr == 3e-4


@pytest.mark.parametrize("given", ["off", "'off'", '"off"', "no", "false"])
def test_off_is_off_however_yaml_reads_it(given: str, write: Write) -> None:
    """YAML 1.1 reads off, no and false as the same."""
    assert load_config(str(write()), [f"train.amp={given}"]).train.amp == "off"
    path = write(train={"amp": None})
    path.write_text(path.read_text().replace("amp: null", f"amp: {given}"))
    assert load_config(str(path)).train.amp == "off"
    assert load_config(str(path), ["train.amp=bf16"]).train.amp == "bf16"
    with pytest.raises(ConfigError, match=r"train\.amp = True: .*'auto', 'bf16' or 'off'"):
        load_config(str(path), ["train.amp=on"])


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
        ("train.deterministic=1", "train.deterministic", 1, "valid boolean"),
        ("search.reduction=1", "search.reduction", 1, "greater than or equal to 2"),
        ("search.sampler=tep", "search.sampler", "tep", "did you mean tpe?"),
        ("search.baselines=1", "search.baselines", 1, "valid boolean"),
        ("search.objectives=[params]", "search.objectives", ["params"], "[accuracy], or [accuracy, params]"),
        ("search.objectives=accuracy", "search.objectives", "accuracy", "valid list"),
        ("strategy=supernets", "strategy", "supernets", "did you mean supernet?"),
        ("supernet.sampling=sandwhich", "supernet.sampling", "sandwhich", "'single' or 'sandwich'"),
        ("sensitivity.criterion=snip", "sensitivity.criterion", "snip", "'spt', 'taylor' or 'fisher'"),
        ("backbone.mean=[1, 0]", "backbone.mean", [1, 0], "at least 3 items"),
        ("backbone.mean=[124, 0, 0]", "backbone.mean.0", 124, "less than or equal to 1"),
        ("backbone.std=[0, 1, 1]", "backbone.std.0", 0, "greater than 0"),
        ("backbone.interpolation=cubic", "backbone.interpolation", "cubic", "'bicubic'"),
        ("task.split_seed=-1", "task.split_seed", -1, "greater than or equal to 0"),
        ("protocol.folds=1", "protocol.folds", 1, "greater than or equal to 2"),
        ("protocol.finalists=0", "protocol.finalists", 0, "greater than 0"),
        ("resources.gpus=-1", "resources.gpus", -1, "greater than or equal to 0"),
        ("resources.gpus=some", "resources.gpus", "some", "valid number"),
        ("resources.runner=rya", "resources.runner", "rya", "'auto', 'ray' or 'inline'"),
        ("budget.params=-1", "budget.params", -1, "greater than or equal to 0"),
        ("seed=-1", "seed", -1, "greater than or equal to 0"),
        ("seed=4294967296", "seed", 2**32, "less than"),
        ("train=5", "train", 5, "valid dictionary"),
        ("storage=study.db", "storage", "study.db", "database URL"),
    ],
)
def test_a_fault_is_told_with_its_path_its_value_and_the_rule(
    write: Write, faults_of: FaultsOf, override: str, path: str, value: Any, rule: str
) -> None:
    faults = faults_of(write(), override)
    assert list(faults) == [path]
    assert faults[path].value == value
    assert type(faults[path].value) is type(value)
    assert rule in faults[path].rule


@pytest.mark.parametrize(
    ("key", "known"), [("strategy", list(STRATEGIES)), ("search.sampler", list(SAMPLERS))], ids=["strategy", "sampler"]
)
def test_names_are_those_of_a_registry(write: Write, faults_of: FaultsOf, key: str, known: list[str]) -> None:
    for name in known:
        assert load_config(str(write()), [f"{key}={name}"])
    (fault,) = faults_of(write(), f"{key}=zzz").values()
    *first, last = map(repr, known)
    assert f"{', '.join(first)} or {last}" in fault.rule


def test_a_strategy_of_a_registrys_new_line_is_known(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "toy", "somewhere:Toy")
    assert load_config(str(write()), ["strategy=toy"]).strategy == "toy"


def test_how_many_gpus_a_trial_takes_is_left_to_the_driver_unless_it_is_said() -> None:
    assert RunConfig.model_validate({"name": "a", "task": "b", "backbone": "c", "space": "d"}).resources.gpus is None
    assert schema.ResourcesConfig.model_validate({"gpus": "auto"}).gpus is None
    assert schema.ResourcesConfig.model_validate({"gpus": 0.5}).gpus == 0.5
    assert schema.ResourcesConfig.model_validate({"gpus": 0}).gpus == 0


def test_settings_that_a_space_may_name_are_settings_of_training() -> None:
    assert set(SETTINGS) <= set(TrainConfig.model_fields)


def test_what_is_usual_of_a_setting_is_the_run_s_or_its_method_s() -> None:
    train = TrainConfig(lr=2e-3, lr_factors={"vpt": 10})
    names = ("lr", "lr.vpt", "lr.lora", "scale.lora", "scale.adaptformer", "dropout.adaptformer")
    assert [train.usual(name) for name in names] == [2e-3, 10, 1, 1, 0.1, 0.1]


def test_configurations_cannot_be_changed(make: Callable[..., RunConfig]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().seed = 3
