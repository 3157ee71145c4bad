"""What a workbench is made of that is heavy and never changes: a worker is handed it, and opens no file."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

TASK, BACKBONE, COSTS = "task", "backbone", "costs"
"""The task, whose images are known by their hashes; the pretrained backbone, as a `Parcel`; what steps were measured
to cost."""


def images_of(view: str) -> str:
    """The name of the decoded images of a view's source."""
    return f"images of {view}"


@dataclass(frozen=True)
class Supply:
    """A thing that a workbench asks for.

    Args:
        name: What it asks for it by.
        key: Tells its content: equal keys are the same thing, of whatever run.
        size: Bytes, about.
        make: The thing, to be handed to another process.
        on_disk: Whether a process that sees the driver's files can open it itself.
    """

    name: str
    key: str
    size: int
    make: Callable[[], Any]
    on_disk: bool = True


@dataclass(frozen=True)
class Parcel:
    """An object whose tensors lie beside it as plain bytes, so that processes can share one copy of them.

    Args:
        skeleton: The pickled object without its tensors.
        arrays: The bytes of its tensors.
    """

    skeleton: bytes
    arrays: tuple[npt.NDArray[np.uint8], ...]

    def unpacked(self) -> Any:
        """The object; its tensors lie in the parcel's memory, and nothing may write to them."""
        return _Unpacker(io.BytesIO(self.skeleton), self.arrays).load()


def packed(thing: nn.Module) -> Parcel:
    """A module as a parcel; what it shares within itself stays shared.

    Args:
        thing: On the CPU.
    """
    skeleton = io.BytesIO()
    packer = _Packer(skeleton)
    packer.dump(thing)
    return Parcel(skeleton.getvalue(), tuple(packer.arrays))


class _Packer(pickle.Pickler):
    """Writes tensors as what tells where their bytes lie: their number, type, shape, and what kind of tensor."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[npt.NDArray[np.uint8]] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> Any:
        if not isinstance(thing, Tensor):
            return None
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self.arrays)
            self.arrays.append(thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        kind = thing.requires_grad if isinstance(thing, nn.Parameter) else None
        return self._numbers[id(thing)], str(thing.dtype).removeprefix("torch."), tuple(thing.shape), kind


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: tuple[npt.NDArray[np.uint8], ...]) -> None:
        super().__init__(file)
        self._arrays = arrays
        self._made: dict[int, Tensor] = {}

    def persistent_load(self, about: Any) -> Tensor:
        number, dtype, shape, kind = about
        if number not in self._made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "not writable": nothing here writes
                values = torch.from_numpy(self._arrays[number]).view(getattr(torch, dtype)).reshape(shape)
            self._made[number] = values if kind is None else nn.Parameter(values, requires_grad=kind)
        return self._made[number]
