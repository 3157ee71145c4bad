"""The configuration of a run: one strict schema, all faults at once, and the same check for overrides. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError

from petlas.petl.methods import METHODS
from petlas.spaces import check_space

Yaml = Mapping[str, Any]


class ConfigError(ValueError):
    """A configuration with faults: the message lists all of them."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where in the file, the value there, and the rule."""

    path: str
    value: Any
    rule: str

    def __str__(self) -> str:
        """One line, such as `train.epochs = 0: should be greater than 0`."""
        return f"{self.path} = {self.value!r}: {self.rule}"


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; everything else that is no number stays wrong."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if type(value) is int else value


def _named(value: Any) -> Any:
    """`task: digits` is short for `task: {name: digits}`."""
    return {"name": value} if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TaskConfig(_Group):
    """What is learned: the name of a known task or the path of an image folder, and where data lies."""

    name: str
    root: str | None = None


class BackboneConfig(_Group):
    """What is adapted: a timm name, its weights (by default the Hub's) and image size (by default its own)."""

    name: str
    checkpoint: str | None = None
    img_size: PositiveInt | None = None


class BudgetConfig(_Group):
    """Hard limits on every design that is trained: trainable parameters, head excluded."""

    params: Annotated[int, Field(ge=0)] | None = None


class EvolutionConfig(_Group):
    """How `sampler: evolution` varies designs: see `petlas.search.evolution.Evolution`."""

    population: PositiveInt = 50
    parents: PositiveInt = 10
    mutations: Annotated[int, Field(ge=0)] = 25
    crossovers: Annotated[int, Field(ge=0)] = 25
    probability: Annotated[Number, Field(ge=0, le=1)] = 0.2
    depth_probability: Annotated[Number, Field(ge=0, le=1)] = 0.4
    by: Literal["dimension", "method", "block"] = "dimension"
    late: bool = True


class SearchConfig(_Group):
    """How many designs are tried and how they are drawn.

    `trials` counts finished trials, baselines included; after `seconds` no new trial is started. A trial is looked at
    after `grace_epochs`, then each time that the epochs have grown by the factor `reduction`, and goes on if it is in
    the best 1 / `reduction` there. `baselines` are never stopped early.

    With `strategy: supernet`, the sampler draws `scores` designs that are scored with inherited weights; the best
    `finalists` of them are trained stand-alone, from the supernet's weights if `inherit`, else from the backbone.
    `ranking_check` designs, spread over the scores, are trained too: they show how well scores rank designs.

    With `seed_designs: sensitivity`, the first designs that are trained, but for finalists, have sizes in proportion to
    the sensitivity of the weights next to them.
    """

    trials: PositiveInt = 64
    seconds: Positive | None = None
    sampler: Literal["tpe", "nsga2", "random", "evolution"] = "tpe"
    baselines: bool = True
    seed_designs: Literal["none", "sensitivity"] = "none"
    evolution: EvolutionConfig = EvolutionConfig()
    scores: PositiveInt = 800
    finalists: PositiveInt = 5
    inherit: bool = False
    ranking_check: Annotated[int, Field(ge=0)] = 0
    reduction: Annotated[int, Field(ge=2)] = 3
    grace_epochs: PositiveInt | None = None


class TrainConfig(_Group):
    """How one design is trained; the last epoch counts."""

    epochs: PositiveInt = 100
    batch_size: PositiveInt = 64
    lr: Positive = 1e-3
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    label_smoothing: Share = 0.0
    drop_path: Share = 0.0
    clip_grad: Positive | None = 1.0
    amp: Literal["auto", "bf16", "off"] = "auto"


class SupernetConfig(_Group):
    """How the supernet is trained; what is not set here is as in `train`.

    `sampling: single` trains one random design in each step, as NOAH does; `sandwich` the largest, the smallest and
    `random` others, which learn from the largest. Designs are drawn evenly over `designs`, or over parameter counts
    (`params`). `balanced` scales narrow slices up to the magnitude of the largest size.
    """

    epochs: PositiveInt = 100
    lr: Positive = 5e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    sampling: Literal["single", "sandwich"] = "single"
    random: PositiveInt = 2
    draw: Literal["designs", "params"] = "designs"
    balanced: bool = True


class SensitivityConfig(_Group):
    """How the backbone's weights are scored for the task, and how budgets are given to them.

    `criterion` says what is summed over `batches` of `batch_size` training images: see `petlas.petl.sensitivity`. The
    head is drawn at `random`, as in SPT, or `warm`ed up on fixed features. With `rule: spt`, a matrix of which
    1 / `alpha` of the cost of a `module` of that `rank` is sensitive gets one, a vector is trained whole where
    1 / `beta` of it is, and the rest of a budget goes to single entries; with `rule: proportional`, the sizes of the
    run's space are in proportion to the sensitivity. There is a design for each of `budgets`: by default for
    `budget.params`, or without one for seven from 50,000 to 1,000,000. The criterion says how many single entries each
    block gets; which ones they are, the method `sparse` finds by squared gradients when it is trained.
    """

    batches: PositiveInt = 16
    batch_size: PositiveInt = 32
    criterion: Literal["spt", "taylor", "fisher"] = "spt"
    head: Literal["random", "warm"] = "random"
    rule: Literal["spt", "proportional"] = "spt"
    module: Literal["lora", "linear_adapter"] = "lora"
    rank: PositiveInt = 8
    alpha: Positive = 10.0
    beta: Positive = 5.0
    budgets: list[PositiveInt] | None = None


class ProtocolConfig(_Group):
    """How the chosen design is measured: the seeds of the final training on train+val."""

    retrain_seeds: PositiveInt = 3


class ResourcesConfig(_Group):
    """Where trials run: through Ray Tune, or one after the other in this process.

    `cache_gb` bounds the activations that a worker keeps to score designs that share their first blocks.
    """

    runner: Literal["ray", "inline"] = "ray"
    address: str | None = None
    concurrent: PositiveInt | None = None
    cpus: PositiveInt = 1
    gpus: Annotated[Number, Field(ge=0)] = 0.0
    cache_gb: Annotated[Number, Field(ge=0)] = 1.0


class RunConfig(_Group):
    """The whole run."""

    name: str
    task: Annotated[TaskConfig, BeforeValidator(_named)]
    backbone: Annotated[BackboneConfig, BeforeValidator(_named)]
    space: str | dict[str, Any]
    budget: BudgetConfig = BudgetConfig()
    strategy: Literal["auto", "trials", "supernet", "sensitivity"] = "auto"
    search: SearchConfig = SearchConfig()
    train: TrainConfig = TrainConfig()
    supernet: SupernetConfig = SupernetConfig()
    sensitivity: SensitivityConfig = SensitivityConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    runs: str = "runs"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name


def find_config(name: str, kind: str = "") -> Path:
    """The YAML file of that path, or of that name among the package's (`kind` is a folder there).

    Raises:
        ConfigError: When there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = Path(str(resources.files("petlas.configs"))) / kind
    packaged = shipped / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    known = sorted(path.stem for path in shipped.glob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped with petlas: {', '.join(known)}"
    raise ConfigError(name, [Fault(kind or "CONFIG", name, f"must be a YAML file or a known name; {hint}")])


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: When it cannot be read, or is no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(str(path), [Fault("file", path.name, f"must be readable YAML: {error}")]) from error
    if not isinstance(data, dict):
        raise ConfigError(str(path), [Fault("file", path.name, "must hold a mapping")])
    return data


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set dotted keys, as in `train.epochs=20`; the values are YAML.

    Raises:
        ConfigError: When an override is not of the form key=value, or its key runs through a plain value.
    """
    faults = []
    for override in overrides:
        key, equals, text = override.partition("=")
        *groups, last = key.split(".")
        node: Any = data
        for group in groups:
            if isinstance(node.get(group), str) and group in ("task", "backbone"):
                node[group] = {"name": node[group]}
            if isinstance(node.get(group), str) and group == "space" and node is data:
                node[group] = _named_space(node[group])
            if node.get(group) is None:
                node[group] = {}
            node = node[group]
            if not isinstance(node, dict):
                break
        if not equals or not last or not isinstance(node, dict):
            faults.append(Fault(key, override, "an override must be key=value, with dots between groups"))
            continue
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            faults.append(Fault(key, text, "must be readable YAML; quote text with special characters"))
    if faults:
        raise ConfigError("command line", faults)
    return data


def _named_space(name: str) -> dict[str, Any]:
    """A space by its name or file, told by the key `space` where there is none."""
    try:
        return read_yaml(find_config(name, "spaces"))
    except ConfigError as error:
        raise ConfigError("command line", [Fault("space", fault.value, fault.rule) for fault in error.faults]) from None


def load_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of a file, or of a shipped one, with overrides; its space is read, not only named.

    Args:
        name: Path of a YAML file, or the name of a configuration that petlas ships.
        overrides: `key=value` pairs that go through the same check.

    Raises:
        ConfigError: Listing every fault with its path, its value and the rule.
    """
    path = find_config(name)
    data = apply_overrides({"name": path.stem} | read_yaml(path), overrides)
    faults: list[Fault] = []
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        faults = [_fault(item) for item in error.errors()]
    faults += _space_faults(data.get("space"))
    faults += _combination_faults(data)
    if faults or config is None:
        raise ConfigError(str(path), faults)
    return config.model_copy(update={"space": space_of(config)})


def space_of(config: RunConfig) -> dict[str, Any]:
    """The YAML of the run's space: inline, a file, or one that petlas ships."""
    return config.space if isinstance(config.space, dict) else read_yaml(find_config(config.space, "spaces"))


def _space_faults(space: Any) -> list[Fault]:
    if isinstance(space, str):
        try:
            space = read_yaml(find_config(space, "spaces"))
        except ConfigError as error:
            return [Fault("space", fault.value, fault.rule) for fault in error.faults]
    if not isinstance(space, dict):
        return []
    return [_space_fault(space, fault) for fault in check_space(space, METHODS)]


def _space_fault(space: Any, text: str) -> Fault:
    """One of `check_space`'s lines, which begin with a path, with the value there."""
    path, _, rule = text.partition(": ")
    value = space
    for part in path.split("."):
        value = value.get(part, "missing") if isinstance(value, dict) else "missing"
    return Fault(f"space.{path}", value, rule)


def _combination_faults(data: Yaml) -> list[Fault]:
    """What cannot be together, among the settings that are sound on their own."""
    groups: dict[str, type[_Group]] = {"train": TrainConfig, "supernet": SupernetConfig}
    epochs = {name: _sound(group, data.get(name), "epochs") for name, group in groups.items()}
    grace = _sound(SearchConfig, data.get("search"), "grace_epochs")
    name, storage = data.get("name"), data.get("storage")
    faults = []
    for group, whole in epochs.items():
        warmup = _sound(groups[group], data.get(group), "warmup_epochs")
        if whole is not None and warmup is not None and warmup >= whole:
            faults.append(Fault(f"{group}.warmup_epochs", warmup, f"must be less than {group}.epochs = {whole}"))
    whole = epochs["train"]
    if whole is not None and grace is not None and grace > whole:
        faults.append(Fault("search.grace_epochs", grace, f"must be at most train.epochs = {whole}"))
    evolution = _sound(SearchConfig, data.get("search"), "evolution")
    if evolution is not None and evolution.mutations + evolution.crossovers > evolution.population:
        rule = f"must be at least mutations + crossovers = {evolution.mutations + evolution.crossovers}"
        faults.append(Fault("search.evolution.population", evolution.population, rule))
    limit = _sound(BudgetConfig, data.get("budget"), "params")
    budgets = _sound(SensitivityConfig, data.get("sensitivity"), "budgets")
    if limit is not None and budgets and min(budgets) > limit:
        rule = f"must have a budget of at most budget.params = {limit}"
        faults.append(Fault("sensitivity.budgets", budgets, rule))
    if isinstance(name, str) and ("/" in name or name in ("", ".", "..")):
        faults.append(Fault("name", name, "must be a plain folder name; set the place with runs=FOLDER"))
    if isinstance(storage, str) and "://" not in storage:
        faults.append(Fault("storage", storage, "must be a database URL such as postgresql://user:password@host/name"))
    return faults


def _sound(group: type[_Group], data: Any, key: str) -> Any:
    """A setting of a group, or its default; None where it breaks its own rule."""
    try:
        given = {key: data[key]} if isinstance(data, dict) and key in data else {}
        return getattr(group.model_validate(given), key)
    except ValidationError:
        return None


def _fault(error: Any) -> Fault:
    """A pydantic error in petlas's words, with the nearest known name for an unknown key."""
    parts = [str(part) for part in error["loc"]]
    path = ".".join(part for part in parts if part != "str" and not part.startswith(("function-", "dict[")))
    rule = error["msg"].removeprefix("Input ").replace("Field required", "is required")
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(error["loc"][:-1]))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        rule = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known: {', '.join(known)}"
    value = "missing" if error["type"] == "missing" else error["input"]
    return Fault(path, value, rule)


def _fields_at(loc: Sequence[Any]) -> Sequence[str]:
    group: Any = RunConfig
    for part in loc:
        field = group.model_fields.get(part)
        if field is None:
            continue
        group = field.annotation
    return list(group.model_fields)


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)
