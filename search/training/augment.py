"""Augmentation of batches on their device, seeded as everything else that an epoch draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.search.config import TrainConfig
from petlas.search.training.batches import ImageBatches

Draw: TypeAlias = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) of 0..255 to such images."""


@dataclass(frozen=True)
class Mixed:
    """Targets of images that are mixed of two each.

    Args:
        first: Of the one, B of them.
        second: Of the other.
        share: How much the one counts.
    """

    first: Tensor
    second: Tensor
    share: float

    def __len__(self) -> int:
        """Number of images."""
        return len(self.first)


Targets: TypeAlias = Tensor | Mixed


class AugmentedBatches:
    """Batches of images that are changed at random each time that they are asked for.

    Flips, crops, erased boxes and mixtures are a few operations on the whole batch; the policies draw for each image
    on its own. What is drawn comes from torch's generator, which a training seeds in each epoch.

    Args:
        data: The images.
        train: What is done with them.
    """

    def __init__(self, data: ImageBatches, train: TrainConfig) -> None:
        self._data, self._train, self._draw = data, train, AUGMENTATIONS[train.augment]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._data)

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        """Batches in order."""
        return map(self.batch, self._data.picks)

    def batch(self, pick: Tensor | slice) -> tuple[Tensor, Targets]:
        """Images (B, 3, S, S), normalised as the backbone was pretrained, and targets (B,) or (B, K), or mixed."""
        images, train = self._draw(self._data.raw(pick)), self._train
        images = flip(images, train.hflip) if train.hflip else images
        images = self._data.normalised(shift(images, train.shift) if train.shift else images)
        if train.erasing:
            images = erase(images, train.erasing)
        return mix(images, self._data.targets(pick), train.mixup, train.cutmix)


def flip(images: Tensor, share: float = 0.5) -> Tensor:
    """Mirror some images.

    Args:
        images: (B, 3, H, W).
        share: How many, on average.
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(mirrored, images.flip(-1), images)


def shift(images: Tensor, most: float) -> Tensor:
    """Move each image by whole pixels; what is left free repeats its edge.

    Args:
        images: (B, 3, H, W).
        most: By how much of the height and the width at most.
    """
    places = []
    for side in images.shape[-2:]:
        reach = round(most * side)
        by = torch.randint(-reach, reach + 1, (len(images), 1), device=images.device)
        places.append((torch.arange(side, device=images.device) + by).clamp(0, side - 1))  # (B, side)
    image, channel = (torch.arange(count, device=images.device) for count in images.shape[:2])
    rows, columns = places
    return images[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def crop(images: Tensor) -> Tensor:
    """A box of 8% to 100% of each image, 3:4 to 4:3 where there is room, brought to full size, and flips.

    Source: Szegedy et al., Going deeper with convolutions, 2015.
    """
    area, ratio, x, y = torch.rand(4, len(images), device=images.device)
    area, ratio = 0.08 + 0.92 * area, ((2 * ratio - 1) * math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(width)
    across = torch.stack((width, zero, (2 * x - 1) * (1 - width)), dim=1)
    down = torch.stack((zero, height, (2 * y - 1) * (1 - height)), dim=1)
    grid = F.affine_grid(torch.stack((across, down), dim=1), list(images.shape), align_corners=False)
    return flip(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def _policy(name: str, **settings: int) -> Draw:
    """Crops and flips, then the operations of one of torchvision's policies, drawn for each image."""

    def draw(images: Tensor) -> Tensor:
        transform = getattr(import_module("torchvision.transforms.v2"), name)(**settings)
        pixels = crop(images).round().clamp(0, 255).to(torch.uint8)
        return torch.stack([transform(image) for image in pixels])

    return draw


AUGMENTATIONS: dict[str, Draw] = {
    "auto": lambda images: images,
    "none": lambda images: images,
    "flip": flip,
    "crop": crop,
    "randaugment": _policy("RandAugment", num_ops=2, magnitude=9),
    "trivial": _policy("TrivialAugmentWide"),
}
"""What `train.augment` names. RandAugment: Cubuk et al., 2020; TrivialAugment: Mueller and Hutter, 2021."""


def erase(images: Tensor, probability: float) -> Tensor:
    """Put noise into a box of some images: 2% to a third of the area, 3:10 to 10:3.

    Source: Zhong et al., Random erasing data augmentation, 2020.

    Args:
        images: (B, 3, H, W), normalised.
        probability: Of an image to get a box.
    """
    rows, columns = images.shape[-2:]
    hit, area, ratio, x, y = torch.rand(5, len(images), device=images.device)
    area, ratio = 0.02 + (1 / 3 - 0.02) * area, ((2 * ratio - 1) * math.log(10 / 3)).exp()
    height, width = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top, left = y * (1 - height), x * (1 - width)
    row = (torch.arange(rows, device=images.device) + 0.5) / rows
    column = (torch.arange(columns, device=images.device) + 0.5) / columns
    down = (row >= top[:, None]) & (row < (top + height)[:, None]) & (hit < probability)[:, None]
    across = (column >= left[:, None]) & (column < (left + width)[:, None])
    box = down[:, None, :, None] & across[:, None, None, :]
    return torch.where(box, torch.randn_like(images), images)


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Targets]:
    """Mix each image of a batch with another one, by one share for the batch: all over, or in a box.

    Where both are asked for, each batch gets one of them, as likely as the other. Sources: Zhang et al., mixup, 2018;
    Yun et al., CutMix, 2019.

    Args:
        images: (B, 3, H, W).
        targets: (B,) or (B, K).
        mixup: Of the beta distribution that the share is drawn from; 0 for none.
        cutmix: Likewise.
    """
    if not mixup and not cutmix:
        return images, targets
    boxed = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
    alpha = cutmix if boxed else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    others = images.flip(0)  # the order is drawn anew in each epoch
    if not boxed:
        return share * images + (1 - share) * others, Mixed(targets, targets.flip(0), share)
    rows, columns = images.shape[-2:]
    height, width = (round(side * math.sqrt(1 - share)) for side in (rows, columns))
    top, left = (int(torch.randint(room + 1, ())) for room in (rows - height, columns - width))
    images[:, :, top : top + height, left : left + width] = others[:, :, top : top + height, left : left + width]
    return images, Mixed(targets, targets.flip(0), 1 - height * width / (rows * columns))
