import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.search.config import Fault, RunConfig, load_config, missing_inputs

Write = Callable[..., Path]
FaultsOf = Callable[..., dict[str, Fault]]


@pytest.mark.parametrize(
    ("override", "path", "value", "rule"),
    [
        ("search.evolution.population=9", "search.evolution.population", 9, "at least mutations + crossovers = 50"),
        ("supernet={epochs: 3, warmup_epochs: 3}", "supernet.warmup_epochs", 3, "less than supernet.epochs = 3"),
        ("train.warmup_epochs=2", "train.warmup_epochs", 2, "less than train.epochs = 2"),
        ("search.grace_epochs=3", "search.grace_epochs", 3, "at most train.epochs = 2"),
        ("search.seed_designs=supernet", "search.seed_designs", "supernet", "goes with strategy: auto"),
        ("protocol.repeats=2", "protocol.repeats", 2, "needs protocol.folds"),
        ("protocol={folds: 5, repeats: 2} strategy=auto", "protocol.repeats", 2, "must be 1 with strategy: auto"),
        ("resources={pack: 4, trial_timeout: 9}", "resources.pack", 4, "must be 1 with a trial_timeout"),
        ("space.prune=1", "space.prune", 1, "below 1"),
        ("space.settings.lrr=[0.1]", "space.settings.lrr", [0.1], "did you mean 'lr'?"),
        ("space.settings={lr.vpt: [1, 10]}", "space.settings.lr.vpt", "missing", "unknown setting"),
        ("space.settings={scale.head: [1, 10]}", "space.settings.scale.head", "missing", "unknown setting"),
        ("train.lr_factors={adaptr: 2}", "train.lr_factors", {"adaptr": 2}, "did you mean adapter?"),
    ],
)
def test_what_cannot_be_together_is_told_with_its_path_its_value_and_the_rule(
    write: Write, faults_of: FaultsOf, override: str, path: str, value: Any, rule: str
) -> None:
    faults = faults_of(write(), *re.split(r" (?=\w+=)", override))
    assert list(faults) == [path]
    assert faults[path].value == value
    assert type(faults[path].value) is type(value)
    assert rule in faults[path].rule


def test_budgets_of_the_sensitivity_are_held_against_the_budget(write: Write, faults_of: FaultsOf) -> None:
    faults = faults_of(write(), "budget.params=9", "sensitivity.budgets=[10]")
    assert "at most budget.params = 9" in faults["sensitivity.budgets"].rule


def test_settings_of_training_may_be_searched(write: Write) -> None:
    settings = {"lr": {"low": 3e-4, "high": 2e-2, "log": True}, "weight_decay": [0, 1e-2], "label_smoothing": [0, 0.1]}
    settings |= {"hflip": [0, 0.5], "shift": {"low": 0, "high": 0.2}}
    settings |= {"lr.lora": [1, 10], "lr.head": [0.1, 1], "scale.lora": [1, 4], "dropout.lora": [0, 0.2]}
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}, "settings": settings}
    assert load_config(str(write(space=space))).space == space


@pytest.mark.parametrize(
    ("setting", "values", "value"),
    [
        ("lr", {"low": 0, "high": 1e-2}, 0),
        ("weight_decay", [-1, 0], -1),
        ("label_smoothing", [0, 1.5], 1.5),
        ("hflip", [1], 1),
        ("lr.lora", [-3, 1], -3),
    ],
)
def test_a_setting_has_no_value_that_training_does_not_take(
    write: Write, faults_of: FaultsOf, setting: str, values: Any, value: float
) -> None:
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}, "settings": {setting: values}}
    (fault,) = faults_of(write(space=space)).values()
    assert (fault.path, fault.value) == (f"space.settings.{setting}", value)
    assert "must be what train takes, and should be" in fault.rule


def test_all_faults_are_listed_at_once_those_of_combinations_and_of_the_space_too(
    write: Write, faults_of: FaultsOf
) -> None:
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


def test_paths_that_lead_nowhere_are_found_without_opening_anything(
    make: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mine" / "own").mkdir(parents=True)
    (tmp_path / "weights.pth").touch()

    def missing(**groups: Any) -> list[str]:
        return [fault.path for fault in missing_inputs(make(**groups))]

    assert missing(task="/nope") == ["task.name"]
    assert missing(task="./nope") == ["task.name"]
    assert missing(task="x/" + "y" * 300) == ["task.name"]
    assert missing(task=str(tmp_path / "data")) == missing(task="data/mine") == missing(task="digits") == []
    assert missing(task={"name": "mine/own", "root": "data"}) == []
    assert missing(task={"name": "dtd", "root": "nowhere"}) == ["task.root"]
    backbone = {"name": "vit_mini_patch16_64", "checkpoint": "gone.pth"}
    assert missing(backbone=backbone) == ["backbone.checkpoint"]
    assert missing(backbone=backbone | {"checkpoint": "weights.pth"}) == []
    monkeypatch.chdir(tmp_path / "data")
    relative: dict[str, Any] = {"task": "data/mine", "backbone": backbone | {"checkpoint": "weights.pth"}}
    assert missing(**relative) == ["task.name", "backbone.checkpoint"]
    assert missing(**relative, paths_from=str(tmp_path)) == []
