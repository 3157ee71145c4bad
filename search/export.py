"""Hand an adapter file over in another form, compared on real images where a task is given."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from petlas.petl import Exported, export_adapter, read_adapter_info
from petlas.search.given import Given, task_for
from petlas.search.predict import check_adapter

IMAGES = 32
"""How many images of a task are compared."""


def export(
    adapter: Path,
    target: str,
    out: Path,
    task: str | None = None,
    root: Path | None = None,
    checkpoint: str | None = None,
) -> Exported:
    """Write an adapter in another form, and compare the logits of training images of a task, or of noise.

    Args:
        adapter: The adapter file.
        target: One of `petlas.petl.EXPORTS`.
        out: The file or folder; nothing may be there.
        task: Whose training images are compared; without one, seeded noise is.
        root: The folder that holds the task's data.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        UserError: When the adapter, the task or the place is at fault, or the design has no such form.
        InexactError: When the logits differ; nothing is then written.
    """
    check_adapter(adapter)
    images, source = None, "noise"
    if task is not None:
        images, source = task_images(task, root, adapter), f"task {task}"
    return export_adapter(adapter, target, out, images, source, checkpoint)


def task_images(name: str, root: Path | None, adapter: Path) -> Tensor:
    """Some training images of a task, as an adapter takes them, (B, 3, S, S), normalised.

    Args:
        name: The task's name or folder.
        root: The folder that holds the task's data.
        adapter: The adapter file.
    """
    info = read_adapter_info(adapter)
    view = task_for(info, name, root).views["train"].sample(IMAGES, seed=0)
    return torch.cat([batch for _, batch in Given.of(info).parts(map(view.source.image, view.indices.tolist()))])
