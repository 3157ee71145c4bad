"""Label images with an adapter file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from petlas.datasets import ValueRange
from petlas.datasets.progress import track
from petlas.petl import AdapterError, load_adapter, read_adapter_info
from petlas.search.given import Given, Part, files_in
from petlas.search.objectives import Objective, get_objective
from petlas.search.objectives.base import ranked
from petlas.search.reports.text import duration
from petlas.search.training.numerics import full_precision, pick_device
from petlas.search.waiting import never_silent

log = logging.getLogger("petlas")

ADAPTER = Path("best", "adapter.safetensors")
"""Where a run folder keeps its adapter file."""


@dataclass(frozen=True)
class Prediction:
    """What an image is said to be.

    Args:
        image: The file; of what is none, its number, from 0 on.
        label: Its class; where an image can be of several, all that are more likely than not, with commas between.
        confidence: Of the label; of several the lowest, of none that of the likeliest class.
        top5: The five likeliest classes, with the confidence of each.
    """

    image: str
    label: str
    confidence: float
    top5: list[tuple[str, float]]


Images: TypeAlias = "str | Path | Image.Image | npt.NDArray[np.uint8] | Iterable[Any]"
"""A file, a folder, an image, or an array of one (H, W[, 3]) or several; or an iterable of such, also in a mixture, or
of batches as a loader gives them: tensors (B, 3, S, S), normalised, alone or as the first of a pair."""


def predict(
    adapter: Path, images: Images, checkpoint: str | None = None, value_range: ValueRange | None = None
) -> list[Prediction]:
    """Label images, prepared as the training images were.

    Args:
        adapter: An adapter file.
        images: The images; of a folder all that are in it, at any depth, by their names.
        checkpoint: The backbone's weights, if they are a local file that lies elsewhere than the adapter file says.
        value_range: What is black and white in images of more than 8 bits, where that is not as it was in training.

    Raises:
        AdapterError: When the adapter cannot be loaded.
        DataError: When an image cannot be read, or something is none.
    """
    check_adapter(adapter)
    info = read_adapter_info(adapter)
    objective = get_objective(info.kind)
    items = one_by_one(images)
    parts = Given.of(info, value_range).parts(items)
    model = load_adapter(adapter, checkpoint=checkpoint)

    def labelled() -> Iterator[Prediction]:
        for names, logits in outputs(model, parts, pick_device()):
            for name, row in zip(names, objective.confidences(logits).tolist(), strict=True):
                yield _prediction(name, row, objective, info.classes)

    return list(track(labelled(), len(items), "labelling images") if isinstance(items, list) else labelled())


def outputs(model: nn.Module, parts: Iterable[Part], device: torch.device) -> Iterator[Part]:
    """The logits (B, K) of each batch in place of its images, in full precision; it says how many are done when long.

    Args:
        model: A backbone with a design.
        parts: Batches of named images.
        device: Where it computes.
    """
    model.float().eval().to(device)
    done, began = 0, time.monotonic()

    def say() -> None:
        log.info("still at work: %s images done, after %s", f"{done:,}", duration(time.monotonic() - began))

    with never_silent(say):
        for names, batch in parts:
            with torch.inference_mode(), full_precision():
                logits = model(batch.to(device)).float().cpu()
            done += len(batch)
            yield names, logits


def all_outputs(model: nn.Module, batches: Iterable[tuple[Tensor, Any]], device: torch.device) -> Tensor:
    """The logits (N, K) of all images of batches with targets, in full precision.

    Args:
        model: A backbone with a design.
        batches: Images and their targets.
        device: Where it computes.
    """
    parts: Iterator[Part] = (([], images) for images, _ in batches)
    return torch.cat([logits for _, logits in outputs(model, parts, device)])


def one_by_one(images: Images) -> Iterable[Any]:
    """What was given, one by one; a list where it is known how many there are.

    Args:
        images: In any form.
    """
    if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    if not isinstance(images, list | tuple | np.ndarray):
        return images
    return [each for item in images for each in (files_in(item) if isinstance(item, str | Path) else [item])]


def check_adapter(adapter: Path) -> None:
    """Refuse a folder, and say which file in it is meant."""
    if adapter.is_dir():
        inside = next((path for path in (adapter / ADAPTER, adapter / ADAPTER.name) if path.is_file()), None)
        hint = f"give {inside}" if inside else f"a run has one at {ADAPTER} when petlas retrain is done"
        raise AdapterError(f"an adapter must be a file, and {adapter} is a folder; {hint}")


def _prediction(name: str, confidences: list[float], objective: Objective, classes: Sequence[str]) -> Prediction:
    top = ranked(confidences, classes)[:5]
    said = objective.labels(confidences, classes)
    return Prediction(name, ",".join(name for name, _ in said), (said or top[:1])[-1][1], top)
