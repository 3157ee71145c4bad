"""Streams in files that all processes of a node map, within a bound."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from petlas.datasets.stores import exclusive, load_array, sweep, writing_array
from petlas.search.training.batches import on_device


class StreamFiles:
    """The streams of one key, a file each; files of all keys together stay within a bound.

    A file that another process has mapped can be removed: the process keeps what it has.

    Args:
        folder: Where the files are.
        key: What determines the digits of the streams.
        rows: Images of each stream.
        limit: Bytes of all files in the folder; those that were used longest ago go first.
    """

    def __init__(self, folder: Path, key: str, rows: int, limit: int) -> None:
        self.folder, self.key, self.rows, self.limit = folder, key, rows, limit

    def load(self, number: int) -> Tensor | None:
        """A stream (M, ...), mapped; None where it is not kept.

        Args:
            number: Of the stream.
        """
        for path in self.folder.glob(f"{self.key}-{number}-*.npy"):
            kept = load_array(path, (self.rows,), np.uint8)
            if kept is not None:
                with suppress(OSError):
                    os.utime(path)  # used now
                dtype, _, order = path.stem.rpartition("-")[2].partition("+")
                stream = on_device(kept, torch.device("cpu")).view(getattr(torch, dtype))
                return stream.permute([order.index(str(axis)) for axis in range(stream.ndim)]) if order else stream
        return None

    def load_all(self, numbers: Collection[int]) -> dict[int, Tensor] | None:
        """Several streams by their numbers, or None where one is not kept.

        Args:
            numbers: Of the streams.
        """
        found = {number: stream for number in numbers if (stream := self.load(number)) is not None}
        return found if len(found) == len(numbers) else None

    @contextmanager
    def building(self) -> Iterator[None]:
        """One process at a time in the block; what killed ones left is cleared away."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        with exclusive(self.folder / self.key):
            yield

    def make_room(self, numbers: Collection[int], each: int) -> bool:
        """Remove other files until all of these streams fit; whether they can.

        Args:
            numbers: Of the streams, kept or not.
            each: Bytes of one of them.
        """
        needed = each * len(numbers)
        if needed > self.limit:
            return False
        wanted = {f"{self.key}-{number}" for number in numbers}
        others = []
        for path in self.folder.glob("*.npy"):
            with suppress(OSError):  # another process has just removed it
                if path.stem.rpartition("-")[0] not in wanted:
                    others.append((path.stat().st_mtime, path.stat().st_size, path))
        used = needed + sum(size for _, size, _ in others)
        for _, size, path in sorted(others):
            if used <= self.limit:
                break
            path.unlink(missing_ok=True)
            used -= size
        return True

    @contextmanager
    def writing(self, number: int, part: Tensor) -> Iterator[Callable[[Tensor], object]]:
        """Write a stream batch by batch; it is kept when the block ends well.

        Its axes are kept in the order in which they lie in memory: what reads maps (B, C, H, W) computes other digits
        where channels lie elsewhere.

        Args:
            number: Of the stream.
            part: Some of it (B, ...), for its shape.

        Raises:
            OSError: When it cannot be written.
        """
        form, order = str(part.dtype).removeprefix("torch."), list(range(part.ndim))
        if not part.is_contiguous():
            order = [0, *sorted(order[1:], key=part.stride, reverse=True)]
            form += "+" + "".join(map(str, order))

        def as_bytes(batch: Tensor) -> Tensor:
            return batch.permute(order).contiguous().view(torch.uint8)

        shape = (self.rows, *as_bytes(part).shape[1:])
        with writing_array(self.folder / f"{self.key}-{number}-{form}.npy", shape, np.uint8) as write:
            yield lambda batch: write(as_bytes(batch).cpu().numpy())
