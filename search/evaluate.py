"""How good an adapter is on a task with the same classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from petlas.datasets import VIEWS, DataError, Task, open_store, open_task
from petlas.petl import AdapterError, AdapterInfo, count_tuned, load_adapter, read_adapter_info
from petlas.search.objectives import Assessment, get_objective
from petlas.search.objectives.base import ppt
from petlas.search.predict import check_adapter
from petlas.search.reports.text import shown, standard_error
from petlas.search.training.batches import ImageBatches
from petlas.search.training.numerics import full_precision, pick_device

log = logging.getLogger("petlas")

TEST = "test"
_NAMED = 5


@dataclass(frozen=True)
class Evaluation:
    """An adapter on a view of a task.

    Args:
        adapter: Its file.
        task: The task's name.
        view: Which part of it.
        images: How many.
        classes: Their names, in the task's order.
        metrics: Every metric of that kind of task.
        errors: The standard errors of those that have one.
        assessment: Class by class, and how sure it is.
        notes: What a reader of the numbers must know.
        params: Trainable parameters of the design, head excluded.
        ppt: The first metric weighed by these.
    """

    adapter: str
    task: str
    view: str
    images: int
    classes: tuple[str, ...]
    metrics: dict[str, float]
    errors: dict[str, float]
    assessment: Assessment
    notes: tuple[str, ...]
    params: int
    ppt: float

    def to_dict(self) -> dict[str, Any]:
        """What `petlas evaluate --format json` prints."""
        data = asdict(self)
        assessed: dict[str, Any] = data.pop("assessment")
        return data | assessed


def evaluate(
    adapter: Path,
    task: str,
    root: Path | None = None,
    view: str = TEST,
    split_seed: int = 0,
    checkpoint: str | None = None,
) -> Evaluation:
    """Measure an adapter, in full precision, on images that are prepared as those that it was trained on.

    Args:
        adapter: The adapter file.
        task: The task's name or folder.
        root: The folder that holds the task's data.
        view: Which part of it.
        split_seed: Of the val or test that is set aside where the data has none.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        AdapterError: When the adapter is at fault, or is of other classes than the task.
        DataError: When the task is at fault, or has no such view.
    """
    check_adapter(adapter)
    if view not in VIEWS:
        raise DataError(f"--view must be one of {', '.join(VIEWS)}, got {view!r}")
    info, data = read_adapter_info(adapter), open_task(task, root=root, split_seed=split_seed)
    order = _order(adapter, info, data)
    notes = (*data.notes, *_notes(info, data, view))
    for note in notes:
        log.warning("task %s: %s", shown(data.name), shown(note))
    log.info("reading the %s view of task %s, %d images", view, shown(data.name), len(data.views[view]))
    model = load_adapter(adapter, checkpoint=checkpoint)
    params = count_tuned(model)
    outputs, targets = _outputs(model, info, data, view, order)
    kinds = [get_objective(info.kind, metric.name) for metric in get_objective(info.kind).metrics]
    metrics = {}
    for objective in kinds:
        meter = objective.meter()
        meter.add(outputs, targets)
        metrics[objective.metric.name] = meter.value()
    errors = {o.metric.name: standard_error(o.metric, metrics[o.metric.name], len(targets)) for o in kinds}
    return Evaluation(
        str(adapter),
        data.name,
        view,
        len(targets),
        data.classes,
        metrics,
        {name: error for name, error in errors.items() if error is not None},
        kinds[0].assess(kinds[0].confidences(outputs), targets, data.classes),
        notes,
        params,
        ppt(metrics[kinds[0].metric.name], params),
    )


def _order(adapter: Path, info: AdapterInfo, task: Task) -> list[int]:
    """For each class of the task, which of the adapter's outputs it is: classes are told by their names."""
    if info.kind != task.kind:
        raise AdapterError(f"{adapter} is for {info.kind} tasks, and task {shown(task.name)} is {task.kind}")
    missing, more = set(task.classes) - set(info.classes), set(info.classes) - set(task.classes)
    if missing or more:
        told = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has", more)) if names]
        raise AdapterError(
            f"an adapter is evaluated on its own classes, and beside task {shown(task.name)} {adapter} "
            f"{' and '.join(told)}; give a task with the same {len(info.classes)} classes"
        )
    return [info.classes.index(name) for name in task.classes]


def _some(names: set[str]) -> str:
    listed = [shown(name) for name in sorted(names)]
    return ", ".join(listed[:_NAMED]) + (f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else "")


def _notes(info: AdapterInfo, task: Task, view: str) -> Sequence[str]:
    """Whether the adapter may have learned from the images."""
    own = info.task.get("fingerprint") == task.fingerprint
    if own and view != TEST:
        return [f"the adapter was trained on this task: its {view} images are no test of it"]
    if own or task.split_seed is None:
        return []
    return [
        "what is test was set aside at random, and train and val are not those that the adapter was trained on: it may "
        "have learned from these images; give the split seed of its run"
    ]


@torch.inference_mode()
def _outputs(
    model: torch.nn.Module, info: AdapterInfo, task: Task, view: str, order: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of all images in the task's order of classes, (N, K), and their targets."""
    part, device = task.views[view], pick_device()
    store = open_store(part.source, info.input.size, interpolation=info.input.interpolation)
    data = ImageBatches(store, part.targets, info.input, device, indices=part.indices)
    model.to(device)
    with full_precision():
        found = [(model(images)[:, list(order)], targets) for images, targets in data]
    return torch.cat([logits for logits, _ in found]).float(), torch.cat([targets for _, targets in found])
