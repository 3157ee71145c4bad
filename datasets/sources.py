"""The sources images come from: files below a folder, or an array in memory."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from petlas.datasets.hashing import content_hashes
from petlas.datasets.images import read_image, to_rgb
from petlas.datasets.task import Source


@dataclass(frozen=True)
class FileSource:
    """Image files by their paths relative to `root`; where a list names them, line i + 1 of it names image i."""

    root: Path
    names: tuple[str, ...]
    listing: str | None = None

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """How an error names the image."""
        path = self.root / self.names[index]
        return f"{path} ({self.listing} line {index + 1})" if self.listing else str(path)

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright."""
        return read_image(self.root / self.names[index], self.place(index))

    def fingerprint(self, cache_dir: Path | None = None) -> str:
        """Hash of the files' contents in their order, whatever they are called."""
        hashes = content_hashes(self.root, self.names, cache_dir)
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory: uint8, one grey (N, H, W) or RGB (N, H, W, 3) array."""

    images: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """The image as RGB."""
        return to_rgb(Image.fromarray(self.images[index]))

    def fingerprint(self, cache_dir: Path | None = None) -> str:
        """Hash of the array."""
        return hashlib.sha256(f"{self.images.shape}".encode() + self.images.tobytes()).hexdigest()


def decoded(source: Source, size: int, resample: Image.Resampling) -> Iterator[npt.NDArray[np.uint8]]:
    """Every image of the source in order, resized to (3, size, size), decoded a few at a time."""

    def decode(index: int) -> npt.NDArray[np.uint8]:
        image = source.image(index).resize((size, size), resample)
        return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)

    threads = min(8, os.cpu_count() or 1)
    window = 8 * threads  # decode no further ahead than this of whoever takes the images
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), window):
            yield from pool.map(decode, range(start, min(start + window, len(source))))
