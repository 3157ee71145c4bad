"""How sensitive the loss on a run's task is to each weight of its backbone, and what is made of that."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbone import input_config, reset_head, shape_of
from petlas.petl.design import Design
from petlas.petl.methods.base import Batch
from petlas.petl.sensitivity import Criterion, sensitivities
from petlas.petl.shape import BackboneShape, BlockTensor, block_tensors
from petlas.petl.tuning import count_params
from petlas.search.allocation import allocate_all
from petlas.search.config import RunConfig, space_of
from petlas.search.run_folder import SENSITIVITY_FILES, RunError, write_json
from petlas.search.sizing import OPERATIONS, Sites, proportional_design, pruned
from petlas.search.supernet import space_and_budget
from petlas.search.training import fresh_backbone, load_split, open_run_task, pick_device
from petlas.spaces import Budget, Space

log = logging.getLogger("petlas")

FILE, PICTURE = SENSITIVITY_FILES
BUDGETS = (50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000)
"""SPT's, used where neither `sensitivity.budgets` nor `budget.params` is given."""

PARTS = (1, 2, 4)
"""Seed designs have the whole budget, a half and a quarter."""

_HEAD_STEPS = 100
_HEAD_LR = 1e-2


@dataclass(frozen=True)
class Allocated:
    """The design that a budget was given to."""

    budget: int
    params: int
    design: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What `petlas score` finds.

    Args:
        task: The task's name.
        backbone: The timm name.
        criterion: Of `petlas.petl.sensitivity`.
        head: Whether the head was drawn at random or warmed up.
        sites: For each block, the sum of the sensitivities of the entries of each operation.
        designs: One for each budget.
        seconds: What the gradients took, and all that came after them.
        settings: Of the run: those that this depends on.
    """

    task: str
    backbone: str
    criterion: str
    head: str
    sites: list[dict[str, float]]
    designs: list[Allocated]
    seconds: dict[str, float]
    settings: dict[str, Any]


def measure(config: RunConfig) -> tuple[BackboneShape, dict[BlockTensor, Tensor]]:
    """The sensitivity to each entry of each tensor of the blocks, on the first batches of the training images.

    The model is in evaluation mode: with neither dropout nor drop-path, the same images give the same numbers.
    """
    settings, device = config.sensitivity, pick_device()
    task, model = open_run_task(config), fresh_backbone(config)
    torch.manual_seed(config.seed)
    reset_head(model, task.num_classes)
    model.to(device).eval()
    data = load_split(config, task, "train", input_config(model), device, settings.batch_size)
    if settings.head == "warm":
        _warm_up(model, islice(data, settings.batches))
    return tensor_sensitivities(model, islice(data, settings.batches), settings.criterion)


def tensor_sensitivities(
    model: nn.Module, batches: Iterable[Batch], criterion: Criterion
) -> tuple[BackboneShape, dict[BlockTensor, Tensor]]:
    """The model's shape, and the sensitivities of its blocks' tensors, q, k and v apart."""
    shape = shape_of(model)
    tensors = [tensor for block in range(shape.depth) for tensor in block_tensors(shape, block)]
    paths = dict.fromkeys(tensor.path for tensor in tensors)
    found = sensitivities(model, batches, paths, criterion)
    return shape, {t: found[t.path].flatten()[t.start : t.start + t.entries] for t in tensors}


def _warm_up(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Train the head for a few steps on features that are computed once."""
    with torch.no_grad():
        pairs = [(model.forward_head(model.forward_features(x), pre_logits=True), y) for x, y in batches]  # type: ignore[operator]
    features, labels = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    head = model.get_submodule("head")
    optimiser = torch.optim.AdamW(head.parameters(), lr=_HEAD_LR)
    for _ in range(_HEAD_STEPS):
        optimiser.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimiser.step()
    optimiser.zero_grad()


def sites_of(found: Mapping[BlockTensor, Tensor], depth: int) -> list[dict[str, float]]:
    """The sums over operations: a matrix with its bias and the LayerScale behind it, or a norm."""
    behind = {"ls1": "proj", "ls2": "fc2"}
    sites = [dict.fromkeys(OPERATIONS, 0.0) for _ in range(depth)]
    for tensor, values in found.items():
        operation = tensor.name.split(".")[0]
        sites[tensor.block][behind.get(operation, operation)] += float(values.sum())
    return sites


def budgets_of(config: RunConfig, least: int = 0) -> list[int]:
    """The budgets that designs are made for; of those that nobody asked for, the ones that some design fits."""
    limit, given = config.budget.params, config.sensitivity.budgets
    wanted = given or ([limit] if limit is not None else [budget for budget in BUDGETS if budget >= least])
    return [budget for budget in wanted if limit is None or budget <= limit]


def report(config: RunConfig) -> Report:
    """Measure, and give each budget to a design by the run's rule.

    Raises:
        SpaceError: When a budget is too small for any design.
        RunError: When the loss is not finite.
    """
    settings, (space, budget) = config.sensitivity, space_and_budget(config)
    assert budget.cost is not None
    by_size = settings.rule == "proportional"
    budgets = budgets_of(config, budget.cost(space.smallest) if by_size else 0)
    if by_size:
        for limit in budgets:
            space.check_budget(Budget(limit, budget.cost))
    start = time.perf_counter()
    shape, found = measure(config)
    middle = time.perf_counter()
    sites = sites_of(found, shape.depth)
    if not all(math.isfinite(value) for site in sites for value in site.values()):
        raise RunError(f"the loss of {shape.name} on {config.task.name} must be finite; check the backbone's weights")
    if by_size:
        space, budget = space_and_budget(with_pruned_space(config, sites))
        designs = [proportional_design(space, Budget(limit, budget.cost), sites) for limit in budgets]
    else:
        designs = allocate_all(found, shape, budgets, settings)
    allocated = [Allocated(b, count_params(d, shape), d.to_dict()) for b, d in zip(budgets, designs, strict=True)]
    seconds = {"gradients": middle - start, "after": time.perf_counter() - middle}
    made = Report(
        config.task.name, shape.name, settings.criterion, settings.head, sites, allocated, seconds, _of(config)
    )
    del found
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the trials of this search run in other processes
    return made


def _of(config: RunConfig) -> dict[str, Any]:
    """The settings that a report depends on, as plain data."""
    data = config.model_dump(mode="json")
    return {key: data[key] for key in ("task", "backbone", "space", "budget", "sensitivity", "seed")}


def seed_designs(space: Space, budget: Budget, sites: Sites) -> list[Design]:
    """Designs to begin a search with: in proportion to the sensitivity, of the whole budget, a half and a quarter."""
    assert budget.cost is not None
    least, most = budget.cost(space.smallest), budget.cost(space.largest)
    most = most if budget.limit is None else min(most, budget.limit)
    limits = [max(least, most // part) for part in PARTS]
    return [proportional_design(space, Budget(limit, budget.cost), sites) for limit in limits]


def report_of(config: RunConfig) -> Report:
    """The report in the run folder, made if there is none of these settings."""
    path = config.folder / FILE
    if path.exists() and (kept := read_report(path)).settings == _of(config):
        return kept
    made = report(config)
    write_json(path, asdict(made))
    took = made.seconds["gradients"] + made.seconds["after"]
    log.info("sensitivity of %s in %.1f s: %s", made.task, took, path)
    return made


def read_report(path: Path) -> Report:
    """A report that was written.

    Raises:
        RunError: When the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Report(**data | {"designs": [Allocated(**design) for design in data["designs"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} must hold what petlas score wrote ({error}); remove it to make it anew") from error


def uses_sensitivity(config: RunConfig) -> bool:
    """Whether a search of this configuration measures the sensitivity."""
    wants = config.strategy == "sensitivity" or config.search.seed_designs == "sensitivity"
    return wants or bool(space_of(config).get("prune"))


def with_pruned_space(config: RunConfig, sites: Sites) -> RunConfig:
    """The configuration with a space without its least sensitive places, if `space.prune` asks for it."""
    space = space_of(config)
    return config.model_copy(update={"space": pruned(space, sites)}) if space.get("prune") else config
