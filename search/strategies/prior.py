"""What won in a user's earlier runs, as recipes: `search.prior` names the folder that holds them.

The winners of all runs are grouped by their methods, and each group gives one recipe: the mean of the parts of the
budget, the geometric mean of the learning rates by those of their runs, and what most of them had of other settings.
The group with the most winners comes first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median_low

from petlas.errors import UserError
from petlas.petl import Design, count_params, shape_by_name
from petlas.search.config import RunConfig
from petlas.search.run_folder import find_run, runs_in
from petlas.search.strategies.recipes import LR, Recipe
from petlas.search.study import StudyRecord, candidate_of

log = logging.getLogger("petlas")


def prior(folder: Path, own: Path) -> list[Recipe]:
    """The recipes of the runs in a folder.

    Args:
        folder: It holds run folders.
        own: The run folder that the recipes are for; it is left out.

    Raises:
        UserError: When no run there has a finished training.
    """
    winners = [found for run in runs_in(folder) if run.resolve() != own.resolve() for found in _winner(run)]
    if not winners:
        raise UserError(
            f"search.prior must name a folder of runs with finished trainings, got {str(folder)!r}; "
            "search.prior=null does without"
        )
    groups: dict[frozenset[str], list[Recipe]] = {}
    for recipe in winners:
        groups.setdefault(recipe.methods, []).append(recipe)
    ordered = sorted(groups.values(), key=lambda group: (-len(group), sorted(group[0].methods)))
    log.info("prior: the winners of %d runs in %s are %d kinds of designs", len(winners), folder, len(ordered))
    return [_mean(group) for group in ordered]


def _winner(folder: Path) -> Iterator[Recipe]:
    """The recipe of a run's best candidate, if it has one."""
    try:
        config = find_run(str(folder))
        best = StudyRecord.read(config.folder, config.storage).best()
    except UserError as error:  # of another version, or without a study
        log.warning("prior: %s is left out: %s", folder, error)
        return
    if best is not None:
        yield _recipe(config, candidate_of(best).design, dict(candidate_of(best).settings))


def _recipe(config: RunConfig, design: Design, settings: dict[str, float]) -> Recipe:
    """A candidate as a part of the budget for each of its methods, and its rate as a factor of the run's."""
    shape = shape_by_name(config.backbone.name, config.backbone.img_size)
    params = {name: count_params(Design(own), shape) for name, own in design.by_method.items()}
    whole = config.budget.params or sum(params.values())
    own = settings | {LR: settings.get(LR, config.train.lr) / config.train.lr}
    return Recipe(tuple((name, min(1.0, part / whole)) for name, part in sorted(params.items())), tuple(own.items()))


def _mean(group: Sequence[Recipe]) -> Recipe:
    """One recipe for several of the same methods."""
    shares = {name: round(fmean(dict(recipe.shares)[name] for recipe in group), 4) for name, _ in group[0].shares}
    settings = [dict(recipe.settings) for recipe in group]
    lr = math.exp(fmean(math.log(own.pop(LR)) for own in settings))
    common = sorted(set.intersection(*map(set, settings)))
    others = ((name, median_low(own[name] for own in settings)) for name in common)
    return Recipe(tuple(shares.items()), ((LR, round(lr, 4)), *others))
