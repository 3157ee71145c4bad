"""How good an adapter is on a task with the same classes, or on labelled images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petlas.datasets import VIEWS, DataError, Task, ValueRange
from petlas.petl import AdapterError, AdapterInfo, count_tuned, load_adapter, read_adapter_info
from petlas.search.given import Given, batches_for, task_for
from petlas.search.objectives import Assessment, Objective, get_objective
from petlas.search.objectives.base import ppt
from petlas.search.predict import Images, all_outputs, check_adapter, one_by_one, outputs
from petlas.search.reports.text import shown, standard_error
from petlas.search.training.numerics import pick_device

log = logging.getLogger("petlas")

TEST = "test"
_NAMED = 5


@dataclass(frozen=True)
class Evaluation:
    """An adapter on a view of a task.

    Args:
        adapter: Its file.
        task: The task's name; `images` where images were given.
        view: Which part of it; `given` where images were.
        images: How many.
        classes: Their names, in the task's order, or the adapter's.
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
    task: str | Images,
    root: Path | None = None,
    view: str = TEST,
    split_seed: int = 0,
    checkpoint: str | None = None,
    labels: Sequence[Any] | None = None,
    value_range: ValueRange | None = None,
) -> Evaluation:
    """Measure an adapter, in full precision, on images that are prepared as those that it was trained on.

    Args:
        adapter: The adapter file.
        task: The task's name or folder; or images, of which `labels` says what they are, or pairs of images and labels.
        root: The folder that holds the task's data.
        view: Which part of it.
        split_seed: Of the val or test that is set aside where the data has none.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.
        labels: Of images that are given: for each the name or number of its class, as the adapter counts them; of
            several classes a list of names, or a row of yes and no.
        value_range: What is black and white in images of more than 8 bits, where that is not as it was in training.

    Raises:
        AdapterError: When the adapter is at fault, or is of other classes than the task.
        DataError: When the task or an image is at fault, or there is no such view.
        ObjectiveError: When a label is of no class.
    """
    check_adapter(adapter)
    if view not in VIEWS:
        raise DataError(f"--view must be one of {', '.join(VIEWS)}, got {view!r}")
    info = read_adapter_info(adapter)
    if labels is None and isinstance(task, str | Path):
        found = task_for(info, str(task), root, split_seed, value_range)
        measured = _of_task(adapter, info, found, view, checkpoint)
    elif (root, view, split_seed) == (None, TEST, 0):
        measured = _of_images(adapter, info, task, labels, checkpoint, value_range)
    else:
        raise DataError("root, view and split_seed say which images of a task are read, and images were given")
    return _evaluation(str(adapter), get_objective(info.kind), measured)


@dataclass(frozen=True)
class _Measured:
    """What an adapter said of some images: logits (N, K), and what it should have said."""

    task: str
    view: str
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    params: int
    logits: Tensor
    targets: Tensor


def _of_task(adapter: Path, info: AdapterInfo, task: Task, view: str, checkpoint: str | None) -> _Measured:
    order, part = _order(adapter, info, task), task.views[view]
    notes = (*task.notes, *_notes(info, task, view))
    for note in notes:
        log.warning("task %s: %s", shown(task.name), shown(note))
    log.info("reading the %s view of task %s, %d images", view, shown(task.name), len(part))
    model = load_adapter(adapter, checkpoint=checkpoint)
    device = pick_device()
    logits = all_outputs(model, batches_for(info, part, device), device)[:, order]
    return _Measured(task.name, view, task.classes, notes, count_tuned(model), logits, torch.tensor(part.targets))


def _of_images(
    adapter: Path,
    info: AdapterInfo,
    images: Images,
    labels: Sequence[Any] | None,
    checkpoint: str | None,
    value_range: ValueRange | None,
) -> _Measured:
    objective, found = get_objective(info.kind), [] if labels is None else [*labels]
    targets = objective.targets(found, info.classes)  # a wrong one is told before anything is computed
    items = _apart(images, found) if labels is None else one_by_one(images)
    model = load_adapter(adapter, checkpoint=checkpoint)
    said = [logits for _, logits in outputs(model, Given.of(info, value_range).parts(items), pick_device())]
    count = sum(map(len, said))
    if labels is None:
        targets = objective.targets(found, info.classes)
    if not count or count != len(targets):
        raise DataError(f"there must be one label for each of one or more images, got {len(targets)} for {count}")
    return _Measured("images", "given", info.classes, (), count_tuned(model), torch.cat(said), targets)


def _apart(pairs: Images, labels: list[Any]) -> Iterator[Any]:
    """The images of pairs, as of a loader; their labels are put into a list."""
    for number, pair in enumerate(pairs if isinstance(pairs, Iterable) else [pairs]):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise DataError(
                f"images must come with labels=[...], or as pairs of images and labels, got a {type(pair).__name__} as "
                f"number {number}"
            )
        images, said = pair
        labels.extend(said if isinstance(images, Tensor) else [said])
        yield images


def _evaluation(adapter: str, objective: Objective, measured: _Measured) -> Evaluation:
    """All metrics of what was measured."""
    logits, targets = measured.logits, measured.targets
    kinds = [get_objective(objective.kind, metric.name) for metric in objective.metrics]
    metrics = {}
    for each in kinds:
        meter = each.meter()
        meter.add(logits, targets)
        metrics[each.metric.name] = meter.value()
    errors = {each.metric.name: standard_error(each.metric, metrics[each.metric.name], len(targets)) for each in kinds}
    return Evaluation(
        adapter,
        measured.task,
        measured.view,
        len(targets),
        measured.classes,
        metrics,
        {name: error for name, error in errors.items() if error is not None},
        objective.assess(objective.confidences(logits), targets, measured.classes),
        measured.notes,
        measured.params,
        ppt(metrics[objective.metric.name], measured.params),
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
