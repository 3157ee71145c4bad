"""Decodes all images of a source, a few at a time and in order."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from petlas.datasets.errors import DataError, some
from petlas.datasets.sources import THREADS
from petlas.datasets.task import Source


def squared(image: Image.Image, size: int, resample: Image.Resampling, crop: float | None) -> Image.Image:
    """An image as a square: both sides resized to `size`, or with `crop` the short one, of which the centre is taken.

    Args:
        image: Of any shape.
        size: Of both sides.
        resample: How it is resized.
        crop: How much of the short side the square keeps, as timm's and torchvision's evaluation has it; None for all
            of the image, whatever its aspect ratio.
    """
    if crop is None:
        return image.resize((size, size), resample)
    short, (width, height) = math.floor(size / crop), image.size
    sides = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (round((side - size) / 2) for side in sides)
    return image.resize(sides, resample).crop((left, top, left + size, top + size))


def decoded(
    source: Source, size: int, resample: Image.Resampling, crop: float | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Every image as (3, size, size), until one is at fault; then the rest is only tried, and all faults are told.

    Args:
        source: Where the images are.
        size: Of both sides.
        resample: How they are resized.
        crop: As for `squared`.

    Raises:
        DataError: When an image cannot be read: what is wrong with the first, and which others.
    """

    def decode(index: int) -> npt.NDArray[np.uint8] | DataError:
        try:
            image = squared(source.image(index), size, resample, crop)
        except DataError as error:
            return error
        return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)

    window = 8 * THREADS  # decode no further ahead than this of whoever takes the images
    faults: list[tuple[int, DataError]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(source), window):
            indices = range(start, min(start + window, len(source)))
            for index, image in zip(indices, pool.map(decode, indices), strict=True):
                if isinstance(image, DataError):
                    faults.append((index, image))
                elif not faults:
                    yield image
    if faults:
        raise _told(source, faults)


def _told(source: Source, faults: list[tuple[int, DataError]]) -> DataError:
    first = faults[0][1]
    others = [source.name(index) for index, _ in faults[1:]]
    if not others:
        return first
    return DataError(f"{first}; {len(others)} more of {len(source)} images are at fault: {some(others)}")
