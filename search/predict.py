"""Label images with an adapter file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from petlas.datasets import INTERPOLATIONS, read_image
from petlas.petl.adapter_file import load_adapter, read_adapter_info
from petlas.search.training import EVAL_BATCH, ImageBatches, pick_device


@dataclass(frozen=True)
class Prediction:
    """The label of an image, its confidence, and the five likeliest labels with theirs."""

    image: str
    label: str
    confidence: float
    top5: list[tuple[str, float]]


def predict(adapter: Path, images: Sequence[Path], checkpoint: str | None = None) -> list[Prediction]:
    """Label images, prepared as the training images were.

    Args:
        adapter: An adapter file.
        images: Image files.
        checkpoint: The backbone's weights, if they are a local file.

    Raises:
        AdapterError: When the adapter cannot be loaded.
        DataError: When an image cannot be read.
    """
    info = read_adapter_info(adapter)
    device = pick_device()
    model = load_adapter(adapter, checkpoint=checkpoint).to(device)
    found: list[Prediction] = []
    for start in range(0, len(images), EVAL_BATCH):
        paths = images[start : start + EVAL_BATCH]
        resample, size = INTERPOLATIONS[info.input.interpolation], (info.input.size, info.input.size)
        pixels = [np.asarray(read_image(path, str(path)).resize(size, resample)).transpose(2, 0, 1) for path in paths]
        batch, _ = ImageBatches(np.stack(pixels), np.zeros(len(paths), int), info.input, device).batch(slice(None))
        with torch.inference_mode():
            shares = model(batch).float().softmax(dim=-1).cpu()
        best = shares.topk(min(5, shares.shape[1]))
        for path, values, labels in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
            top = [(info.classes[label], value) for label, value in zip(labels, values, strict=True)]
            found.append(Prediction(str(path), top[0][0], top[0][1], top))
    return found
