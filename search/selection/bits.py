"""What is known of single images, as short text that a study keeps: a bit for each, or a small number. Torch-free."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

MOST = 200_000
"""Of more images nothing is kept one by one: they leave no doubt, and some databases take no longer text."""


def pack_bits(right: npt.NDArray[np.bool_]) -> str:
    """A bit for each image.

    Args:
        right: (N,) of each.
    """
    return base64.b64encode(np.packbits(right).tobytes()).decode()


@lru_cache(maxsize=4096)
def unpack_bits(text: str, count: int) -> tuple[bool, ...]:
    """The inverse of `pack_bits`.

    Args:
        text: What it gave.
        count: N.
    """
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    return tuple(np.unpackbits(packed, count=count).astype(bool).tolist())


def pack_numbers(numbers: npt.NDArray[np.int64]) -> str:
    """A number for each image, such as that of its class.

    Args:
        numbers: (N,), from 0.
    """
    return base64.b64encode(zlib.compress(numbers.astype("<u4").tobytes())).decode()


@lru_cache(maxsize=4096)
def unpack_numbers(text: str) -> Sequence[int]:
    """The inverse of `pack_numbers`.

    Args:
        text: What it gave.
    """
    return tuple(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4").tolist())
