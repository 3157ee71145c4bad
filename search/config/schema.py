"""The groups of a run's configuration, and what each setting may be."""

from __future__ import annotations

import difflib
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from petlas.search.config.values import (
    NAMED,
    OFF,
    SWITCH,
    Count,
    Database,
    FolderName,
    Number,
    Positive,
    Share,
    Text,
    here,
    number,
    one_of,
)

SETTINGS = ("lr", "weight_decay", "label_smoothing", "hflip", "shift")
"""Settings of `train` that a space may name under `settings`, so that they are searched with the design."""

LR_FACTOR = "lr."
"""Before a method's name, the setting of a space that is its entry in `train.lr_factors`, such as `lr.vpt`."""

OPTION_SETTINGS = ("scale", "dropout")
"""Options of a method that a space may name under `settings`, such as `scale.lora`: see `option_of`."""

HEAD = "head"
"""What `train.lr_factors` calls the head, beside the methods."""


_COSTS = ("params", "flops", "latency_ms", "train_memory_gb")
"""What `budget` limits, and a search may trade against the metric."""


def _objectives(value: list[str]) -> list[str]:
    if value != ["accuracy"] and value not in [["accuracy", cost] for cost in _COSTS]:
        others = ", ".join(_COSTS[1:])
        raise ValueError(
            f"must be [accuracy], or [accuracy, params] for a front of both; also with {others} for params"
        )
    return value


def _lr_factors(value: dict[str, float]) -> dict[str, float]:
    known = (*import_module("petlas.petl.methods").METHODS, HEAD)
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "petlas methods lists them"
            raise ValueError(f"must have names of methods, or {HEAD}, and {name!r} is none; {hint}")
    return value


def _gpus(value: Any) -> Any:
    """`auto` is None, which the driver resolves."""
    if isinstance(value, str):
        return None if value == "auto" else number(value)
    return value


def option_of(setting: str) -> tuple[str, str] | None:
    """The option and the method of a setting such as `dropout.adapter`; None for a setting of `train`.

    Args:
        setting: Its name.
    """
    option, dot, method = setting.partition(".")
    return (option, method) if dot and option in OPTION_SETTINGS else None


class Group(BaseModel):
    """A group of settings: no unknown key, no conversion, no change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TaskConfig(Group):
    """What is learned: the name of a known task or the path of an image folder, and where data lies.

    `metric` is what trials are compared by: by default accuracy, or mAP where an image has several labels. Where a
    folder has no val or no test of its own, `split_seed` says which images are set aside; the run's `seed` does not.
    `value_range` is what is black and what is white in images of more than 8 bits. Of few-shot splits (NOAH's lists,
    CoOp's files), `shots` images of each class are learned from, in the drawing of `shot_seed`. With `download`,
    torchvision's data sets are fetched where they are not there.
    """

    name: Text
    root: Text | None = None
    metric: str | None = None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    value_range: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None
    shots: PositiveInt | None = None
    shot_seed: Count = 0
    download: bool = False


class BackboneConfig(Group):
    """What is adapted: a timm name, its weights (by default the Hub's) and image size (by default its own).

    `mean`, `std` (of red, green, blue, for pixels from 0 to 1) and `interpolation` are those of the timm name unless
    they are given: weights from elsewhere may have been trained with others.

    Images become squares by resizing both sides. With `crop` they keep their shape: the short side is resized, and of
    the centre that share of it is kept; `auto` is timm's own for the backbone.
    """

    name: Text
    checkpoint: Text | None = None
    img_size: PositiveInt | None = None
    mean: Annotated[list[Annotated[Number, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] | None = None
    crop: Annotated[Number, Field(gt=0, le=1)] | Literal["auto"] | None = None


class BudgetConfig(Group):
    """Hard limits on every design that is trained.

    `params` counts trainable parameters, head excluded; `flops` the operations of a training step for each image;
    `latency_ms` is the time of a step and `train_memory_gb` its memory, on the run's device: see `petlas plan`.
    """

    params: Count | None = None
    flops: Positive | None = None
    latency_ms: Positive | None = None
    train_memory_gb: Positive | None = None


class EvolutionConfig(Group):
    """How `sampler: evolution` varies designs: see `petlas.search.samplers.evolution`."""

    population: PositiveInt = 50
    parents: PositiveInt = 10
    mutations: Count = 25
    crossovers: Count = 25
    probability: Annotated[Number, Field(ge=0, le=1)] = 0.2
    depth_probability: Annotated[Number, Field(ge=0, le=1)] = 0.4
    by: Literal["dimension", "method", "block"] = "dimension"
    late: bool = True


class SearchConfig(Group):
    """How many designs are tried and how they are drawn.

    `trials` counts finished trials, baselines included; after `seconds` of searching, in all processes together, no new
    trial is started. The sampler learns from `objectives`: the task's metric, or with `[accuracy, params]` its front
    with the number of parameters, or with another cost that `budget` knows. A trial is looked at after `grace_epochs`,
    then each time that the epochs have grown by the factor `reduction`, and goes on if it is in the best 1 /
    `reduction` there. `baselines` are never stopped early. With `retry_failed`, designs that failed by their own fault
    are tried again.

    With `strategy: auto`, `cost` is what the search may cost, in R: see `petlas.search.strategies.auto`; `trials` and
    `seconds` bound it too. `prior` is a folder of earlier runs, whose winners are tried before the portfolio.

    With `strategy: supernet`, the sampler draws `scores` designs that are scored with inherited weights; the best
    `finalists` of them are trained stand-alone, from the supernet's weights if `inherit`, else from the backbone.
    `ranking_check` designs, spread over the scores, are trained before: they show how well scores rank designs, and
    where that is no better than chance, the first of the portfolio are trained in place of the best by score.

    `trackers` are told of every training as it goes on: `tensorboard`, `wandb`, `mlflow`. They keep that in files,
    unless the environment names a server (WANDB_MODE=online, MLFLOW_TRACKING_URI); each is an extra of its name.

    With `seed_designs: sensitivity`, the first designs that are trained, but for finalists, have sizes in proportion to
    the sensitivity of the weights next to them. With `strategy: auto` they join the first of the portfolio, and there
    `seed_designs: supernet` takes the best `finalists` by a supernet's score; `cost` includes what that takes.
    """

    cost: Positive = 6.0
    prior: str | None = None
    trials: PositiveInt = 64
    seconds: Positive | None = None
    sampler: Annotated[str, one_of("petlas.search.samplers", "SAMPLERS")] = "tpe"
    objectives: Annotated[list[str], AfterValidator(_objectives)] = ["accuracy"]
    baselines: bool = True
    seed_designs: Literal["none", "sensitivity", "supernet"] = "none"
    evolution: EvolutionConfig = EvolutionConfig()
    scores: PositiveInt = 800
    finalists: PositiveInt = 5
    inherit: bool = False
    ranking_check: Count = 0
    reduction: Annotated[int, Field(ge=2)] = 3
    grace_epochs: PositiveInt | None = None
    retry_failed: bool = False
    trackers: list[Annotated[str, one_of("petlas.search.runners", "TRACKERS")]] = []


class TrainConfig(Group):
    """How one design is trained; the last epoch counts.

    `augment` changes the images at random in training: mirrored (`flip`), mirrored parts of them (`crop`), and those
    with two operations of RandAugment or one of TrivialAugment. `hflip` is the share of images that are mirrored (0.5
    alone is `flip`), and `shift` by how much of their sides they are moved at most, in whole pixels. `augment: auto`
    leaves images as they are, and lets the strategy `auto` try both; `none` does not. `erasing` is the share of images
    with a box of noise; `mixup` and `cutmix` mix images by shares from a beta distribution of that parameter, 0 for
    none. What the first blocks compute is then not kept.

    `lr_factors` is by how much the rate of a method's parameters, or of the `head`, is above `lr`: `{vpt: 10}` trains
    prompts ten times as fast as the rest of a mixed design.

    `compile` compiles blocks with `torch.compile` for training, one graph for all designs that have the same modules
    there; `auto` does so on a GPU. Where it fails, or gives anything else than without, blocks run as they are, and the
    log says why. Packs are not compiled. Results are the same up to rounding.

    `cuda_graphs: auto` launches the kernels of a forward and backward pass all at once on a GPU: small models and
    images wait for launches otherwise. Where that fails, or gives anything else, they are launched one by one, and the
    log says why. Results are the same.

    `deterministic` asks torch for the same digits twice on one GPU, at some cost of time; a CPU gives them anyway.
    """

    epochs: PositiveInt = 100
    batch_size: PositiveInt = 64
    lr: Positive = 1e-3
    lr_factors: Annotated[dict[str, Positive], AfterValidator(_lr_factors)] = {}
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-4
    warmup_epochs: Count = 10
    label_smoothing: Share = 0.0
    drop_path: Share = 0.0
    augment: Literal["auto", "none", "flip", "crop", "randaugment", "trivial"] = "auto"
    hflip: Share = 0.0
    shift: Share = 0.0
    erasing: Share = 0.0
    mixup: Annotated[Number, Field(ge=0)] = 0.0
    cutmix: Annotated[Number, Field(ge=0)] = 0.0
    clip_grad: Positive | None = 1.0
    amp: Annotated[Literal["auto", "bf16", "off"], OFF] = "auto"
    compile: Annotated[Literal["auto", "on", "off"], SWITCH] = "off"
    cuda_graphs: Annotated[Literal["auto", "off"], OFF] = "auto"
    deterministic: bool = False

    @property
    def augments(self) -> bool:
        """Whether anything is drawn of the images of a training."""
        return self.augment not in ("auto", "none") or any(
            (self.hflip, self.shift, self.erasing, self.mixup, self.cutmix)
        )

    def usual(self, setting: str) -> float:
        """What a candidate is trained with that has no setting of its own.

        Args:
            setting: One of `SETTINGS`, the factor of a method's rate such as `lr.vpt`, or its option as `dropout.lora`.
        """
        if (found := option_of(setting)) is not None:
            option, method = found
            return float(import_module("petlas.petl.methods").get_method(method).usual_setting(option))
        if setting.startswith(LR_FACTOR):
            return self.lr_factors.get(setting.removeprefix(LR_FACTOR), 1.0)
        return float(getattr(self, setting))


class SupernetConfig(Group):
    """How the supernet is trained; what is not set here is as in `train`.

    `sampling: single` trains one random design in each step, as NOAH does; `sandwich` the largest, the smallest and
    `random` others, which learn from the largest. Designs are drawn evenly over `designs`, or over parameter counts
    (`params`). `balanced` scales narrow slices up to the magnitude of the largest size.
    """

    epochs: PositiveInt = 100
    lr: Positive = 5e-4
    warmup_epochs: Count = 10
    sampling: Literal["single", "sandwich"] = "single"
    random: PositiveInt = 2
    draw: Literal["designs", "params"] = "designs"
    balanced: bool = True


class SensitivityConfig(Group):
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


class ProtocolConfig(Group):
    """How candidates are compared at the end, and the chosen one is measured.

    With `folds`, the best `finalists` are trained on that many folds of train and val, and compared by what they get
    right over all of them: `repeats` times, with another seed and the images dealt anew each time. `retrain_seeds` says
    how many seeds the final training on train+val has.
    """

    retrain_seeds: PositiveInt = 3
    folds: Annotated[int, Field(ge=2)] | None = None
    repeats: PositiveInt = 1
    finalists: PositiveInt = 5


class ResourcesConfig(Group):
    """Where trials run, and seeds of `retrain` and `score`: through Ray Tune, or one after the other in this process.

    `runner: auto` takes this process where only one at a time would run on this machine, or there is one. A trial
    computes on a GPU if it is given one or a share of one, and on the CPU with `gpus: 0`; `gpus: auto` is none where
    there is none, and otherwise the share of one that the run's largest design was measured to need. `concurrent`
    bounds the trials that run at once, of all runs that are searched together. A trial that is not done `trial_timeout`
    seconds after it began hangs: it is ended, and failed. `cache_gb` bounds the activations that a worker keeps of a
    run to score designs that share their first blocks, and the files on a node (in PETLAS_CACHE) of what the blocks
    below the lowest placement make of the images: trials train from there, in float32 to the same digit. 0 keeps
    nothing.

    With `pack: N` up to N trials are trained at once in this process or, with `runner: ray`, in each worker: the frozen
    backbone sees the images of all of them together, what they insert of one kind is computed in batched products, and
    each learns what it learns alone, up to rounding. Another trial joins where one ends. Where a worker dies its trials
    are tried again one by one, and that is held against none of them. What is drawn or stopped by what others gave is
    as with N trials at once. A CPU gains half where steps are small (benchmarks/engine/packs.md); it is off unless
    asked for. With `auto` a pack of random designs is measured first where trials are done, and packs are on if it
    makes more steps in a second.

    All paths are the driver's: through Ray, it hands images and weights to the workers by Ray's `object_store`, and
    takes back what they learn. With `data: path` workers open them at the same paths; `auto` does so only where they do
    not fit into a node's object store.
    """

    runner: Literal["auto", "ray", "inline"] = "auto"
    address: str | None = None
    concurrent: PositiveInt | None = None
    cpus: PositiveInt = 1
    gpus: Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, BeforeValidator(_gpus)] = None
    data: Literal["auto", "object_store", "path"] = "auto"
    trial_timeout: Positive | None = None
    cache_gb: Annotated[Number, Field(ge=0)] = 1.0
    pack: PositiveInt | Literal["auto"] = 1


class RunConfig(Group):
    """The whole run.

    Relative paths of the task and of weights lead from `paths_from`, the folder in which the search was started; where
    that leads nowhere, as on another machine, they lead from the working directory.
    """

    name: FolderName
    task: Annotated[TaskConfig, NAMED]
    backbone: Annotated[BackboneConfig, NAMED]
    space: Text | dict[str, Any]
    budget: BudgetConfig = BudgetConfig()
    strategy: Annotated[str, one_of("petlas.search.strategies", "STRATEGIES")] = "trials"
    search: SearchConfig = SearchConfig()
    train: TrainConfig = TrainConfig()
    supernet: SupernetConfig = SupernetConfig()
    sensitivity: SensitivityConfig = SensitivityConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    storage: Database | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    runs: Text = "runs"
    paths_from: Text = Field(default_factory=here)

    def locate(self, path: str) -> str:
        """A path of the configuration, as it leads there from the working directory.

        Args:
            path: As the configuration has it.
        """
        there = Path(self.paths_from, path)
        moved = self.paths_from == here() or (os.path.exists(path) and not os.path.exists(there))
        return path if moved else str(there)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name
