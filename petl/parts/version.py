"""How often a tensor has been written to: the one private name of torch that the room uses."""

from __future__ import annotations

from torch import Tensor


def version(tensor: Tensor) -> int:
    """A number that grows with every change of the tensor in place."""
    count: int = tensor._version
    return count
