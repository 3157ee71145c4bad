"""Images as callers have them, made into batches as an adapter's training images were."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from petlas.datasets import (
    INTERPOLATIONS,
    SUFFIXES,
    DataError,
    Task,
    ValueRange,
    View,
    open_store,
    open_task,
    read_image,
    to_rgb,
)
from petlas.datasets.split import Indices
from petlas.datasets.stores.decoding import decoded
from petlas.petl import AdapterInfo, InputConfig
from petlas.search.reports.text import shown
from petlas.search.training.batches import EVAL_BATCH, ImageBatches

Part: TypeAlias = tuple[list[str], Tensor]
"""What some images are called, and the images (B, 3, S, S), normalised."""


def task_for(
    info: AdapterInfo,
    name: str,
    root: Path | None = None,
    split_seed: int = 0,
    value_range: ValueRange | None = None,
) -> Task:
    """A task whose images are read as those that an adapter was trained on.

    Args:
        info: The header of the adapter's file.
        name: The task's name or folder.
        root: The folder that holds the task's data.
        split_seed: Of the val or test that is set aside where the data has none.
        value_range: What is black and white in images of more than 8 bits, where that is not as it was in training.

    Raises:
        DataError: When the task is at fault.
    """
    return open_task(name, root=root, split_seed=split_seed, value_range=value_range or value_range_of(info))


def batches_for(info: AdapterInfo, view: View, device: torch.device) -> ImageBatches:
    """The images of a view and their targets, decoded once and prepared as an adapter takes them.

    Args:
        info: The header of the adapter's file.
        view: The images.
        device: Where batches are wanted.

    Raises:
        DataError: When an image cannot be read.
    """
    store = open_store(view.source, info.input.size, interpolation=info.input.interpolation, crop=info.input.crop)
    return ImageBatches(store, view.targets, info.input, device, indices=view.indices)


def value_range_of(info: AdapterInfo) -> ValueRange | None:
    """What was black and white in an adapter's training images of more than 8 bits.

    Args:
        info: The header of the adapter's file.
    """
    held = json.loads(info.task.get("value_range", "null"))
    return None if held is None else (held[0], held[1])


class Given:
    """Makes batches of images in whatever form they come, in their order.

    Args:
        inputs: What the backbone expects of its images.
        value_range: What is black and white in images of more than 8 bits.
    """

    def __init__(self, inputs: InputConfig, value_range: ValueRange | None = None) -> None:
        self.inputs, self.value_range = inputs, value_range
        self._count = 0
        self._waiting = _Waiting([], value_range)

    @classmethod
    def of(cls, info: AdapterInfo, value_range: ValueRange | None = None) -> Given:
        """For an adapter: prepared as its training images were.

        Args:
            info: The header of its file.
            value_range: What is black and white in images of more than 8 bits, where that is not as it was in training.
        """
        return cls(info.input, value_range or value_range_of(info))

    def parts(self, items: Iterable[Any]) -> Iterator[Part]:
        """The batches.

        Args:
            items: Files, folders, images, arrays of one (H, W[, 3]), or normalised batches (B, 3, S, S) as a loader
                gives them, alone or with targets behind them.

        Raises:
            DataError: When an image cannot be read, or something is none.
        """
        for item in items:
            batch = item[0] if isinstance(item, tuple | list) and item else item
            if isinstance(batch, Tensor):
                yield from self._flushed()
                yield self._batch(batch)
                continue
            for each in files_in(item) if isinstance(item, str | Path) else [item]:
                self._waiting.items.append((str(each) if isinstance(each, Path) else str(self._count), each))
                self._count += 1
                if len(self._waiting) == EVAL_BATCH:
                    yield from self._flushed()
        yield from self._flushed()

    def _batch(self, batch: Tensor) -> Part:
        size = self.inputs.size
        if not batch.is_floating_point() or batch.shape[1:] != (3, size, size):
            raise DataError(
                f"a loader's batches must be normalised images of floats (B, 3, {size}, {size}), got {batch.dtype} "
                f"{tuple(batch.shape)}; petlas.petl.read_adapter_info(FILE).input says how to normalise"
            )
        names = [str(self._count + place) for place in range(len(batch))]
        self._count += len(batch)
        return names, batch

    def _flushed(self) -> Iterator[Part]:
        """What waits, decoded by what decodes the training images."""
        waiting, self._waiting = self._waiting, _Waiting([], self.value_range)
        if not len(waiting):
            return
        resample = INTERPOLATIONS[self.inputs.interpolation]
        pixels = np.stack(list(decoded(waiting, self.inputs.size, resample, self.inputs.crop)))
        none = np.zeros(len(waiting), int)
        data = ImageBatches(pixels, none, self.inputs, torch.device("cpu"), len(waiting))
        yield [name for name, _ in waiting.items], data.batch(slice(None))[0]


@dataclass(frozen=True)
class _Waiting:
    """Images that wait for a batch to be full: a source, as decoding takes one."""

    items: list[tuple[str, Any]]
    value_range: ValueRange | None

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        return self.items[index][0]

    def place(self, index: int) -> str:
        return self.name(index)

    def fingerprint(self, indices: Indices | None = None) -> str:
        raise NotImplementedError  # nothing is kept of these images

    @property
    def hashes(self) -> tuple[str, ...]:
        raise NotImplementedError

    def image(self, index: int) -> Image.Image:
        name, item = self.items[index]
        if isinstance(item, Path):
            return read_image(item, shown(name), self.value_range)
        if isinstance(item, Image.Image):
            return to_rgb(item, self.value_range)
        if not isinstance(item, np.ndarray):
            raise DataError(
                f"an image must be a file, a PIL image or an array, or a loader's batch of tensors, got a "
                f"{type(item).__name__} as number {name}"
            )
        grey, deep = item.ndim == 2, item.dtype == np.uint16
        if not ((grey and deep) or (item.dtype == np.uint8 and (grey or (item.ndim == 3 and item.shape[-1] == 3)))):
            raise DataError(
                f"an array must be uint8 of the shape (H, W) or (H, W, 3), or uint16 (H, W), got {item.dtype} "
                f"{item.shape} as number {name}; values of 0 to 1 become so by (255 * image).round().astype('uint8')"
            )
        return to_rgb(Image.fromarray(item), self.value_range)


def files_in(place: str | Path) -> list[Path]:
    """A file itself, or the images in a folder, at any depth, by their names.

    Raises:
        DataError: When a folder holds none.
    """
    path = Path(place)
    if not path.is_dir():
        return [path]
    files = sorted(
        Path(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
    )
    if not files:
        raise DataError(f"a folder must hold images, and {path} has none ({', '.join(sorted(SUFFIXES))})")
    return files
