"""The sources images come from: files below a folder, or an array in memory."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from petlas.datasets.errors import DataError, shown
from petlas.datasets.images import ValueRange, decode_image, to_rgb
from petlas.datasets.progress import track
from petlas.datasets.split import Indices

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class FileSource:
    """Image files by their paths relative to a folder.

    Args:
        root: The folder.
        names: The paths, as the file system has them.
        places: Where each is listed ("train.txt line 3"); empty where no list names them.
        value_range: What is black and white in images of more than 8 bits.
    """

    root: Path
    names: tuple[str, ...]
    places: tuple[str, ...] = ()
    value_range: ValueRange | None = None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Its path relative to the folder."""
        return self.names[index]

    def place(self, index: int) -> str:
        """How an error names the image."""
        path = shown(self.root / self.names[index])
        return f"{path} ({self.places[index]})" if self.places else path

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright; refused where it is no longer what `hashes` found."""
        data = self._content(index)
        if "hashes" in self.__dict__ and hashlib.sha256(data).hexdigest() != self.hashes[index]:
            raise DataError(f"{self.place(index)}: the image was changed while it was in use; start again")
        return decode_image(data, self.place(index), self.value_range)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each file. They are always read: size and time say nothing about content."""

        def digest(index: int) -> str:
            return hashlib.sha256(self._content(index)).hexdigest()

        with ThreadPoolExecutor(THREADS) as pool:
            return tuple(track(pool.map(digest, range(len(self))), len(self), f"hashing {shown(self.root.name)}"))

    def fingerprint(self, indices: Indices | None = None) -> str:
        """Hash of the files' contents in their order, whatever they are called, and of the range of values."""
        how = f" {self.value_range}" if self.value_range else ""
        return joined(self.hashes, indices, how)

    def _content(self, index: int) -> bytes:
        try:
            return (self.root / self.names[index]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.place(index)}: the image cannot be read ({error.strerror}); restore the file or remove it"
            ) from error


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory.

    Args:
        images: uint8, grey (N, H, W) or RGB (N, H, W, 3).
    """

    images: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """Its number."""
        return f"image {index}"

    def place(self, index: int) -> str:
        """How an error names the image."""
        return self.name(index)

    def image(self, index: int) -> Image.Image:
        """The image as RGB."""
        return to_rgb(Image.fromarray(self.images[index]))

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each image's shape and pixels."""
        shape = f"{self.images.shape[1:]}".encode()
        return tuple(hashlib.sha256(shape + image.tobytes()).hexdigest() for image in self.images)

    def fingerprint(self, indices: Indices | None = None) -> str:
        """Hash of the images in their order."""
        return joined(self.hashes, indices)


def joined(hashes: Sequence[str], indices: Indices | None, how: str = "") -> str:
    """The fingerprint of images from the hashes of their contents.

    Args:
        hashes: Of a source's images.
        indices: Which of them, in which order; None for all.
        how: What else decides what is read.
    """
    chosen = hashes if indices is None else [hashes[index] for index in indices]
    return hashlib.sha256(("".join(chosen) + how).encode()).hexdigest()
