"""Rules between settings that are sound on their own, of a run's space, and of the files that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from petlas.petl.methods import METHODS
from petlas.search.config.faults import Fault, fault_of
from petlas.search.config.schema import (
    HEAD,
    LR_FACTOR,
    OPTION_SETTINGS,
    SETTINGS,
    BudgetConfig,
    Group,
    ProtocolConfig,
    ResourcesConfig,
    RunConfig,
    SearchConfig,
    SensitivityConfig,
    SupernetConfig,
    TrainConfig,
    option_of,
)
from petlas.spaces import Setting, check_space
from petlas.spaces.settings import parse_settings


def combination_faults(data: Mapping[str, Any]) -> list[Fault]:
    """What cannot be together in a configuration as it was read, whatever else is wrong with it."""
    search = data.get("search")
    epochs, grace = _sound(TrainConfig, data.get("train"), "epochs"), _sound(SearchConfig, search, "grace_epochs")
    faults = [*_warmup("train", TrainConfig, data), *_warmup("supernet", SupernetConfig, data)]
    if epochs is not None and grace is not None and grace > epochs:
        faults.append(Fault("search.grace_epochs", grace, f"must be at most train.epochs = {epochs}"))
    prior = _sound(SearchConfig, search, "prior")
    if prior is not None and data.get("strategy") != "auto":
        faults.append(Fault("search.prior", prior, "is read with strategy: auto, and with no other"))
    seeds = _sound(SearchConfig, search, "seed_designs")
    if seeds == "supernet" and data.get("strategy") != "auto":
        rule = "goes with strategy: auto; strategy: supernet trains the best by score anyway"
        faults.append(Fault("search.seed_designs", seeds, rule))
    repeats, folds = (_sound(ProtocolConfig, data.get("protocol"), key) for key in ("repeats", "folds"))
    if repeats is not None and repeats > 1 and (folds is None or data.get("strategy") == "auto"):
        rule = (
            "must be 1 with strategy: auto, which deals its own" if folds else "needs protocol.folds: they are repeated"
        )
        faults.append(Fault("protocol.repeats", repeats, rule))
    evolution = _sound(SearchConfig, search, "evolution")
    if evolution is not None and evolution.mutations + evolution.crossovers > evolution.population:
        rule = f"must be at least mutations + crossovers = {evolution.mutations + evolution.crossovers}"
        faults.append(Fault("search.evolution.population", evolution.population, rule))
    limit = _sound(BudgetConfig, data.get("budget"), "params")
    budgets = _sound(SensitivityConfig, data.get("sensitivity"), "budgets")
    if limit is not None and budgets and min(budgets) > limit:
        rule = f"must have a budget of at most budget.params = {limit}"
        faults.append(Fault("sensitivity.budgets", budgets, rule))
    return faults + _packs(data.get("resources"))


def _packs(data: Any) -> list[Fault]:
    """A trial in a pack has no time of its own."""
    pack, limit = (_sound(ResourcesConfig, data, key) for key in ("pack", "trial_timeout"))
    if pack in (None, 1, "auto") or limit is None:
        return []
    return [Fault("resources.pack", pack, "must be 1 with a trial_timeout in resources: trials in packs are untimed")]


def _warmup(group: str, model: type[Group], data: Mapping[str, Any]) -> list[Fault]:
    epochs, warmup = (_sound(model, data.get(group), key) for key in ("epochs", "warmup_epochs"))
    if epochs is None or warmup is None or warmup < epochs:
        return []
    return [Fault(f"{group}.warmup_epochs", warmup, f"must be less than {group}.epochs = {epochs}")]


def _sound(group: type[Group], data: Any, key: str) -> Any:
    """A setting of a group, or its default; None where it breaks its own rule."""
    try:
        given = {key: data[key]} if isinstance(data, dict) and key in data else {}
        return getattr(group.model_validate(given), key)
    except ValidationError:
        return None


def space_faults(space: Mapping[str, Any]) -> list[Fault]:
    """All faults of a space's structure."""
    methods = space.get("methods")
    trained = [*methods, HEAD] if isinstance(methods, Mapping) else [HEAD]
    options = (f"{option}.{name}" for name in trained[:-1] for option in OPTION_SETTINGS)
    settings = (*SETTINGS, *(f"{LR_FACTOR}{name}" for name in trained), *options)
    faults = [_space_fault(space, line) for line in check_space(space, METHODS, settings)]
    return faults or [fault for setting in parse_settings(space.get("settings", {})) for fault in _untrainable(setting)]


def _untrainable(setting: Setting) -> list[Fault]:
    """A value of a setting that `train` does not take."""
    if option_of(setting.name) is not None:
        return []  # its method says what it takes
    method = setting.name.removeprefix(LR_FACTOR)
    for value in map(setting.value, setting.ends):
        own = {setting.name: value} if method == setting.name else {"lr_factors": {method: value}}
        try:
            TrainConfig.model_validate(own)
        except ValidationError as error:
            rule = fault_of(error.errors()[0], TrainConfig).rule
            return [Fault(f"space.settings.{setting.name}", value, f"must be what train takes, and {rule}")]
    return []


def _space_fault(space: Mapping[str, Any], line: str) -> Fault:
    """One of `check_space`'s lines, which begin with a path, with the value there."""
    path, _, rule = line.partition(": ")
    value: Any = space
    for part in path.split("."):
        value = value.get(part, "missing") if isinstance(value, Mapping) else "missing"
    return Fault(f"space.{path}", value, rule)


def missing_inputs(config: RunConfig) -> list[Fault]:
    """The files and folders that a configuration names and that are not there. Nothing is opened.

    A task without a slash may be one of the known ones: it is looked for when it is opened.
    """
    faults = []
    task, checkpoint = config.task, config.backbone.checkpoint
    if "/" in task.name and not any(_exists(config, place / task.name) for place in _places(task.root)):
        faults.append(Fault("task.name", task.name, "must be a folder of images that exists, or the name of a task"))
    if task.root is not None and not _exists(config, Path(task.root)):
        faults.append(Fault("task.root", task.root, "must be a folder that exists: the one that holds the data sets"))
    if checkpoint is not None and not _exists(config, Path(checkpoint)):
        faults.append(Fault("backbone.checkpoint", checkpoint, "must be a file of weights that exists"))
    return faults


def _places(root: str | None) -> list[Path]:
    return [Path(), *(Path(place) for place in (root, os.environ.get("PETLAS_DATA")) if place)]


def _exists(config: RunConfig, path: Path) -> bool:
    try:
        return Path(config.locate(str(path.expanduser()))).exists()
    except (OSError, RuntimeError):  # a name that is too long, or a home that nobody has
        return False
