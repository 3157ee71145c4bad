"""Decoded images as normalised batches on a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from petlas.petl import InputConfig, Streams, frozen_casts, resume

EVAL_BATCH = 256

Inputs: TypeAlias = Tensor | Streams
"""Images (B, 3, S, S), or what stands in for them."""


def logits_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """A model's output (B, K).

    Args:
        model: A backbone with a design.
        inputs: Images, or what its leading blocks have made of them.
    """
    with frozen_casts(model)():
        logits: Tensor = resume(model, inputs) if isinstance(inputs, Streams) else model(inputs)
    return logits


class Batches(Protocol):
    """What is learned from, or measured on."""

    def __len__(self) -> int:
        """Number of images."""

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches in order."""

    def batch(self, pick: Tensor | slice) -> tuple[Inputs, Tensor]:
        """Inputs of a model and their targets (B,) or (B, K)."""


class ImageBatches:
    """Images that are picked from a store, and their targets, handed out as normalised batches on a device.

    Iterating gives all of them in order, `size` at a time. On a CPU the store's pages are used where they are; on a GPU
    images, indices and targets live on the device, so that a pick that lies there moves nothing between the two.

    Args:
        images: (M, 3, S, S) uint8: the store, or what `on_device` made of it.
        targets: (N,) whole numbers or (N, K) bools, as a view holds them.
        inputs: What the backbone expects of its images.
        device: Where batches are wanted.
        size: Of the batches.
        indices: (N,) which of the images, in order; None for all of them.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8] | Tensor,
        targets: npt.NDArray[Any],
        inputs: InputConfig,
        device: torch.device,
        size: int = EVAL_BATCH,
        indices: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.device, self.size = device, size
        self._images = images if isinstance(images, Tensor) else on_device(images, device)
        self._indices = None if indices is None else torch.tensor(indices, device=device)
        self._targets = torch.tensor(targets, device=device)
        self._mean = torch.tensor(inputs.mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(inputs.std, device=device).view(1, 3, 1, 1) * 255

    def __len__(self) -> int:
        """Number of images."""
        return len(self._targets)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in order."""
        return map(self.batch, self.picks)

    @property
    def picks(self) -> Iterator[slice]:
        """Which images the batches in order hold."""
        return (slice(start, start + self.size) for start in range(0, len(self), self.size))

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self._images.shape[2], self._images.shape[3]

    def numbers(self, pick: Tensor | slice) -> Tensor:
        """Which images of the store a pick means (B,)."""
        if self._indices is None:
            return torch.arange(len(self), device=self.device)[pick]
        return self._indices[pick]

    def raw(self, pick: Tensor | slice) -> Tensor:
        """Images (B, 3, S, S) as the store holds them; nobody may write to them."""
        return self._images[pick if self._indices is None else self._indices[pick]]

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) of 0..255 as floats, normalised as the backbone was pretrained."""
        return (images.float() - self._mean) / self._std

    def images(self, pick: Tensor | slice) -> Tensor:
        """Images (B, 3, S, S) float, normalised as the backbone was pretrained."""
        return self.normalised(self.raw(pick))

    def batch(self, pick: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) float, normalised as the backbone was pretrained, and targets (B,) or (B, K)."""
        return self.images(pick), self.targets(pick)

    def targets(self, pick: Tensor | slice) -> Tensor:
        """Targets (B,) or (B, K)."""
        return self._targets[pick]


def on_device(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """A store's images (M, 3, S, S) as a tensor: copied to a GPU; on a CPU the map's own memory.

    Args:
        images: The store; nothing writes to it.
        device: Where they are used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable": nothing here writes
        return torch.from_numpy(images).to(device)
