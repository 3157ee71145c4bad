"""Arrays in files: written whole, in parts that need not all be in memory, and mapped by every process on a node."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from petlas.files import replacing

Array = npt.NDArray[Any]


def load_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array | None:
    """A read-only memory map of an array, or None where it is missing, cut short, or not what it should be.

    Args:
        path: The file.
        shape: Of the array; its leading part is enough.
        dtype: Of the array.
    """
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError):
        return None
    whole = isinstance(array, np.memmap) and path.stat().st_size == array.offset + array.nbytes
    return array if whole and array.shape[: len(shape)] == shape and array.dtype == dtype else None


@contextmanager
def writing_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[Callable[[Array], object]]:
    """Write an array part by part; it takes the name `path` when the block ends well.

    Args:
        path: The file; its folder is there.
        shape: Of the whole array.
        dtype: Of the array.

    Returns:
        What writes the next rows.

    Raises:
        OSError: When there is no room for it, or it cannot be written.
    """
    needed, free = int(np.prod(shape)) * np.dtype(dtype).itemsize, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"it takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with replacing(path) as file:
        # Plain writes: a full disk raises here, where writing through a memory map would kill the process.
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda part: file.write(np.ascontiguousarray(part, dtype).data)
