"""Features of a task's images before and after tuning, drawn in the plane by t-SNE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from petlas.datasets import VIEWS, DataError
from petlas.petl import family_of, load_adapter, plain_backbone, read_adapter_info
from petlas.search.given import batches_for, task_for
from petlas.search.predict import check_adapter
from petlas.search.reports.text import shown
from petlas.search.training.batches import ImageBatches
from petlas.search.training.numerics import full_precision, pick_device

IMAGES = 1000
"""How many images are drawn where no number is asked for."""

_LEAST = 10  # below that, neighbours mean nothing


@dataclass(frozen=True)
class Plane:
    """Images as points (N, 2), by `backbone` and `design`: what the head reads, as t-SNE lays it out.

    Args:
        task: The task's name.
        view: Which part of it.
        names: Of the images.
        labels: The class of each.
        points: Where each lies.
        silhouette: How well classes part in the features themselves, from -1 to 1 (Rousseeuw, 1987); None for one.
    """

    task: str
    view: str
    names: list[str]
    labels: list[str]
    points: dict[str, npt.NDArray[np.float32]]
    silhouette: dict[str, float | None]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image."""
        places = {f"{which}_{axis}": found[:, i].tolist() for which, found in self.points.items() for i, axis in _AXES}
        return [
            {"image": name, "label": label} | {column: values[i] for column, values in places.items()}
            for i, (name, label) in enumerate(zip(self.names, self.labels, strict=True))
        ]


_AXES = ((0, "x"), (1, "y"))


def tsne(
    adapter: Path,
    task: str,
    root: Path | None = None,
    view: str = "test",
    images: int = IMAGES,
    seed: int = 0,
    checkpoint: str | None = None,
) -> Plane:
    """Lay the features of a task's images out in the plane, of the backbone alone and with the design.

    Args:
        adapter: The adapter file.
        task: The task's name or folder, of single labels; its classes may be others than the adapter's.
        root: The folder that holds the task's data.
        view: Which part of it.
        images: At most how many, with classes as even as can be.
        seed: Of what is chosen, and of t-SNE.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        AdapterError: When the adapter is at fault.
        DataError: When the task is at fault, or has no such view or too few images.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    check_adapter(adapter)
    if view not in VIEWS:
        raise DataError(f"--view must be one of {', '.join(VIEWS)}, got {view!r}")
    info = read_adapter_info(adapter)
    data = task_for(info, task, root)
    if data.kind != "single_label":
        raise DataError(f"points are coloured by their class, and images of task {shown(data.name)} have several")
    part = data.views[view].sample(images, seed)
    if len(part) < _LEAST:
        raise DataError(f"t-SNE needs {_LEAST} images or more, got {len(part)}; take more --images or another --view")
    batches = batches_for(info, part, pick_device())
    models = {"backbone": plain_backbone(info, checkpoint).float(), "design": load_adapter(adapter, None, checkpoint)}
    points, apart = {}, {}
    for which, model in models.items():
        found = features(model.float(), batches)
        known = 1 < len(set(part.targets.tolist())) < len(part)
        apart[which] = float(silhouette_score(found, part.targets)) if known else None
        perplexity = min(30.0, (len(part) - 1) / 3)
        laid = TSNE(random_state=seed, init="pca", perplexity=perplexity).fit_transform(found)
        points[which] = laid.astype(np.float32)
    names = [part.source.name(int(index)) for index in part.indices]
    labels = [data.classes[int(target)] for target in part.targets]
    return Plane(data.name, view, names, labels, points, apart)


@torch.inference_mode()
def features(model: nn.Module, batches: ImageBatches) -> npt.NDArray[np.float32]:
    """What a model's head reads of each image, (N, C).

    Args:
        model: A backbone, with a design or without.
        batches: The images.
    """
    seen: list[Tensor] = []
    model.eval().to(batches.device)
    handle = family_of(model).head(model).register_forward_pre_hook(lambda head, args: seen.append(args[0].cpu()))
    try:
        with full_precision():
            for images, _ in batches:
                model(images)
    finally:
        handle.remove()
    return torch.cat(seen).flatten(1).numpy()
