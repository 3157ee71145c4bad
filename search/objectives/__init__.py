"""What each kind of task asks for. To add one: write its file, and add its line here. Torch-free to import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from petlas.lazy import look_up
from petlas.search.objectives.base import Assessment, Meter, Metric, Objective, ObjectiveError

if TYPE_CHECKING:
    from petlas.datasets import Task

OBJECTIVES: dict[str, str] = {
    "single_label": "petlas.search.objectives.single_label:SingleLabel",
    "multi_label": "petlas.search.objectives.multi_label:MultiLabel",
}
"""By the kind of task, as `Task.kind` says it."""


def get_objective(kind: str, metric: str | None = None) -> Objective:
    """The objective of a kind of task; its file is imported when it is first asked for.

    Args:
        kind: As `Task.kind` says it.
        metric: The metric's name; None for the usual one of that kind.

    Raises:
        ObjectiveError: When there is no such kind, or the kind has no such metric.
    """
    if kind not in OBJECTIVES:
        raise ObjectiveError(f"the kind of a task must be one of {', '.join(OBJECTIVES)}, got {kind}")
    objective: Objective = look_up(OBJECTIVES[kind])(metric)
    return objective


def check_metric(objective: Objective, task: Task) -> None:
    """Refuse a metric that is no number on val, where every candidate would fail as if by its own fault.

    Args:
        objective: With the metric.
        task: What is learned.

    Raises:
        ObjectiveError: When it is none.
    """
    import torch

    view, meter = task.views["val"], objective.meter()
    meter.add(torch.zeros(len(view), objective.outputs(task.num_classes)), torch.tensor(view.targets))
    if not math.isfinite(meter.value()):
        raise ObjectiveError(
            f"{objective.metric.name} needs images of some class, and val of task {task.name} has {len(view)} of none; "
            "label them, or give val other images"
        )


def objective_of(task: Task, metric: str | None = None) -> Objective:
    """The objective of a task.

    Args:
        task: What is learned.
        metric: As `task.metric` names it; None for the usual one of that kind of task.

    Raises:
        ObjectiveError: When there is no such metric for it.
    """
    return get_objective(task.kind, metric)


__all__ = [
    "OBJECTIVES",
    "Assessment",
    "Meter",
    "Metric",
    "Objective",
    "ObjectiveError",
    "check_metric",
    "get_objective",
    "objective_of",
]
