"""Label images with an adapter file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from petlas.datasets import INTERPOLATIONS, DataError, FileSource
from petlas.datasets.stores.decoding import decoded
from petlas.petl import AdapterError, AdapterInfo, load_adapter, read_adapter_info
from petlas.search.objectives import Objective, get_objective
from petlas.search.objectives.base import ranked
from petlas.search.training.batches import EVAL_BATCH, ImageBatches
from petlas.search.training.numerics import pick_device

ADAPTER = Path("best", "adapter.safetensors")
"""Where a run folder keeps its adapter file."""


@dataclass(frozen=True)
class Prediction:
    """What an image is said to be.

    Args:
        image: The file.
        label: Its class; where an image can be of several, all that are more likely than not, with commas between.
        confidence: Of the label; of several the lowest, of none that of the likeliest class.
        top5: The five likeliest classes, with the confidence of each.
    """

    image: str
    label: str
    confidence: float
    top5: list[tuple[str, float]]


def predict(adapter: Path, images: Sequence[Path], checkpoint: str | None = None) -> list[Prediction]:
    """Label images, prepared as the training images were.

    Args:
        adapter: An adapter file.
        images: Image files.
        checkpoint: The backbone's weights, if they are a local file that lies elsewhere than the adapter file says.

    Raises:
        AdapterError: When the adapter cannot be loaded.
        DataError: When an image cannot be read.
    """
    check_adapter(adapter)
    info = read_adapter_info(adapter)
    objective = get_objective(info.kind)
    for path in images:
        if path.is_dir():
            raise DataError(f"an image must be a file, and {path} is a folder; give the files in it, as in {path}/*")
    device = pick_device()
    model = load_adapter(adapter, checkpoint=checkpoint).to(device)
    found: list[Prediction] = []
    for start in range(0, len(images), EVAL_BATCH):
        paths = images[start : start + EVAL_BATCH]
        data = _prepared(paths, info, device)
        with torch.inference_mode():
            rows = objective.confidences(model(data.batch(slice(None))[0]).float()).cpu().tolist()
        found += [_prediction(path, row, objective, info.classes) for path, row in zip(paths, rows, strict=True)]
    return found


def check_adapter(adapter: Path) -> None:
    """Refuse a folder, and say which file in it is meant."""
    if adapter.is_dir():
        inside = next((path for path in (adapter / ADAPTER, adapter / ADAPTER.name) if path.is_file()), None)
        hint = f"give {inside}" if inside else f"a run has one at {ADAPTER} when petlas retrain is done"
        raise AdapterError(f"an adapter must be a file, and {adapter} is a folder; {hint}")


def _prepared(paths: Sequence[Path], info: AdapterInfo, device: torch.device) -> ImageBatches:
    """The images, decoded and resized by what decodes the training images."""
    value_range = json.loads(info.task.get("value_range", "null"))
    source = FileSource(Path(), tuple(str(path) for path in paths), value_range=value_range and tuple(value_range))
    pixels = np.stack(list(decoded(source, info.input.size, INTERPOLATIONS[info.input.interpolation])))
    return ImageBatches(pixels, np.zeros(len(paths), int), info.input, device)


def _prediction(path: Path, confidences: list[float], objective: Objective, classes: Sequence[str]) -> Prediction:
    top = ranked(confidences, classes)[:5]
    said = objective.labels(confidences, classes)
    return Prediction(str(path), ",".join(name for name, _ in said), (said or top[:1])[-1][1], top)
