"""A source decoded once into a memory-mapped file that every process on the node shares."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from petlas.datasets.errors import DataError
from petlas.datasets.progress import track
from petlas.datasets.stores.arrays import load_array, writing_array
from petlas.datasets.stores.cache import cache_folder, exclusive, sweep
from petlas.datasets.stores.decoding import decoded
from petlas.datasets.task import Source

INTERPOLATIONS = {method.name.lower(): method for method in Image.Resampling}

_FORMAT = 2  # part of every store's key: raise it when decoding changes

Images = npt.NDArray[np.uint8]


def open_store(
    source: Source,
    size: int,
    cache_dir: str | Path | None = None,
    interpolation: str = "bicubic",
    crop: float | None = None,
) -> Images:
    """All images of a source as a read-only memory map (M, 3, size, size) of RGB bytes, built on first use.

    Both sides are resized to `size`, as VTAB-1k's protocol has it, unless `crop` keeps the aspect ratio. The store is
    found by the contents of the images, so a changed image makes a new store.

    Args:
        source: Where the images are; the views of a task index into its store.
        size: Of both sides, in pixels.
        cache_dir: Where stores are kept; by default PETLAS_CACHE, or ~/.cache/petlas.
        interpolation: A key of `INTERPOLATIONS`.
        crop: How much of the short side is kept of the centre; None for the whole image, squeezed into a square.

    Raises:
        DataError: When an image cannot be read, the store cannot be written, or an argument is impossible.
    """
    if size < 1:
        raise DataError(f"the image size must be 1 or more, got {size}; use the backbone's input size")
    if interpolation not in INTERPOLATIONS:
        raise DataError(f"unknown interpolation {interpolation!r}; use one of {', '.join(INTERPOLATIONS)}")
    if crop is not None and not 0 < crop <= 1:
        raise DataError(f"the share that is cropped must be above 0 and at most 1, got {crop:g}")
    folder = cache_folder(cache_dir)
    shape = (len(source), 3, size, size)
    key = f"{source.fingerprint()} {size} {interpolation} {_FORMAT}" + ("" if crop is None else f" crop {crop}")
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    store = _load(path, shape)
    if store is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            with exclusive(path):
                if (store := _load(path, shape)) is None:
                    _build(path, shape, source, INTERPOLATIONS[interpolation], crop)
                    store = _load(path, shape)
        except OSError as error:
            raise DataError(
                f"the image store must be written to {folder}, which failed ({error}); free space there, or point "
                "PETLAS_CACHE to a folder you can write"
            ) from error
    if store is None:
        raise DataError(f"{path}: the image store was damaged while it was written; check the disk and try again")
    return store


def _load(path: Path, shape: tuple[int, ...]) -> Images | None:
    return load_array(path, shape, np.uint8)


def _build(path: Path, shape: tuple[int, ...], source: Source, resample: Image.Resampling, crop: float | None) -> None:
    with writing_array(path, shape, np.uint8) as write:
        for image in track(decoded(source, shape[-1], resample, crop), shape[0], "decoding images"):
            write(image)
