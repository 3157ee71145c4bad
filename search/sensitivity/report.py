"""What `petlas score` finds, and what a search makes of it. Torch is imported only where something is measured."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import petlas
from petlas.files import json_bytes
from petlas.petl.design import Design
from petlas.search.config import space_of
from petlas.search.run_folder import SENSITIVITY_FILES, RunError
from petlas.search.sensitivity.sizing import Sites, proportional_design, pruned

if TYPE_CHECKING:
    from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")

FILE, PICTURE = SENSITIVITY_FILES
BUDGETS = (50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000)
"""SPT's, used where neither `sensitivity.budgets` nor `budget.params` is given."""

PARTS = (1, 2, 4)
"""Seed designs have the whole budget, a half and a quarter."""


@dataclass(frozen=True)
class Allocated:
    """The design that a budget was given to."""

    budget: int
    params: int
    design: dict[str, Any]


@dataclass(frozen=True)
class SensitivityReport:
    """What `petlas score` finds.

    Args:
        task: The task's name.
        backbone: The timm name.
        criterion: Of `petlas.petl.sensitivity`.
        head: Whether the head was drawn at random or warmed up.
        sites: For each block, the sum of the sensitivities of the entries of each operation.
        designs: One for each budget.
        seconds: What the gradients took, and all that came after them.
        settings: What this depends on: of the run's settings, and fingerprints of its images and weights.
        stages: Blocks of each stage.
    """

    task: str
    backbone: str
    criterion: str
    head: str
    sites: list[dict[str, float]]
    designs: list[Allocated]
    seconds: dict[str, float]
    settings: dict[str, Any]
    stages: list[int] = field(default_factory=list)


def budgets_of(bench: Workbench) -> list[int]:
    """The budgets that designs are made for; of those that nobody asked for, the ones that some design fits."""
    settings, limit = bench.config.sensitivity, bench.config.budget.params
    least = bench.cost(bench.space.smallest) if settings.rule == "proportional" else 0
    wanted = settings.budgets or ([limit] if limit is not None else [budget for budget in BUDGETS if budget >= least])
    return [budget for budget in wanted if limit is None or budget <= limit]


def make_report(bench: Workbench) -> SensitivityReport:
    """Measure, and give each budget to a design by the run's rule.

    Raises:
        SpaceError: When a budget is too small for any design.
        RunError: When the loss is not finite.
    """
    import torch

    from petlas.search.sensitivity.allocation import allocate_all
    from petlas.search.sensitivity.measuring import measure, sites_of

    config, settings, budgets = bench.config, bench.config.sensitivity, budgets_of(bench)
    by_size = settings.rule == "proportional"
    if by_size:
        for limit in budgets:
            bench.space.check_budget(replace(bench.budget, limit=limit))
    start = time.perf_counter()
    shape, found = measure(bench)
    middle = time.perf_counter()
    sites = sites_of(found, shape)
    if not all(math.isfinite(value) for site in sites for value in site.values()):
        raise RunError(f"the loss of {shape.name} on {config.task.name} must be finite; check the backbone's weights")
    if by_size:
        space = with_pruned_space(bench, sites).space
        designs = [proportional_design(space, replace(bench.budget, limit=limit), sites) for limit in budgets]
    else:
        designs = allocate_all(found, shape, budgets, settings)
    allocated = [Allocated(b, bench.cost(d), d.to_dict()) for b, d in zip(budgets, designs, strict=True)]
    seconds = {"gradients": middle - start, "after": time.perf_counter() - middle}
    del found
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the trials of this search run in other processes
    return SensitivityReport(
        config.task.name,
        shape.name,
        settings.criterion,
        settings.head,
        sites,
        allocated,
        seconds,
        _settings(bench),
        [stage.depth for stage in shape.stages],
    )


def _settings(bench: Workbench) -> dict[str, Any]:
    """What a report depends on, as plain data."""
    data = bench.config.model_dump(mode="json")
    kept = {key: data[key] for key in ("task", "backbone", "space", "budget", "sensitivity", "seed")}
    images = bench.fingerprint(bench.task.views["train"])
    return kept | {"images": images, "weights": bench.weights, "version": petlas.__version__}


def kept_report(bench: Workbench) -> SensitivityReport | None:
    """The report in the run folder; None if there is none of these settings, these images and these weights."""
    path = bench.config.folder / FILE
    kept = read_report(path) if path.exists() else None
    return kept if kept is not None and kept.settings == _settings(bench) else None


def keep_report(bench: Workbench) -> SensitivityReport:
    """Make the report, and keep it among the run's files."""
    made = make_report(bench)
    bench.files.write(FILE, json_bytes(asdict(made)))
    return made


def tell(made: SensitivityReport, bench: Workbench) -> None:
    """Say that a report was made.

    Args:
        made: The report.
        bench: The run's workbench.
    """
    took = made.seconds["gradients"] + made.seconds["after"]
    log.info("sensitivity of %s in %.1f s: %s", made.task, took, bench.config.folder / FILE)


def read_report(path: Path) -> SensitivityReport:
    """A report that was written.

    Raises:
        RunError: When the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return SensitivityReport(**data | {"designs": [Allocated(**design) for design in data["designs"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} must hold what petlas score wrote ({error}); remove it to make it anew") from error


def seed_designs(bench: Workbench, sites: Sites) -> list[Design]:
    """Designs to begin a search with: in proportion to the sensitivity, of the whole budget, a half and a quarter.

    Args:
        bench: The run's workbench, of the space that designs are drawn from.
        sites: The sensitivities.
    """
    least, most = bench.cost(bench.space.smallest), bench.cost(bench.space.largest)
    most = most if bench.budget.limit is None else min(most, bench.budget.limit)
    limits = [max(least, most // part) for part in PARTS]
    return [proportional_design(bench.space, replace(bench.budget, limit=limit), sites) for limit in limits]


def with_pruned_space(bench: Workbench, sites: Sites) -> Workbench:
    """The workbench with a space without its least sensitive places, if `space.prune` asks for it.

    Args:
        bench: The run's workbench.
        sites: The sensitivities.
    """
    space = space_of(bench.config)
    if not space.get("prune"):
        return bench
    return bench.with_space(pruned(space, sites, bench.shape.widths))
