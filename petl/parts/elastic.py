"""Modules that can be narrowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from petlas.petl.design import DesignError


class Elastic(nn.Module):
    """A module with a size that can be narrowed, so that a supernet's module serves every smaller size.

    `axes` names the parameters that grow with the size, and the axis or axes along which they do. Narrowed to `k`, the
    module computes what a fresh module of size `k` with the first `k` slices of those parameters computes.

    A sum over k of K terms is smaller than the sum over all, so in a supernet narrow sizes would start behind. With
    `balanced` set, the parameter named by `summed` is multiplied by sqrt(K / k) when it is narrowed, or sliced.
    """

    axes: ClassVar[Mapping[str, int | tuple[int, ...]]] = {}
    summed: ClassVar[str | None] = None
    """The parameter whose slices are terms of a sum."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.active = size
        self.balanced = False

    def narrow(self, size: int) -> None:
        """Use only the first `size` slices.

        Raises:
            DesignError: When the size is not between 1 and the full size.
        """
        if not 1 <= size <= self.size:
            raise DesignError(f"a module of size {self.size} can be narrowed to 1..{self.size}, got size={size}")
        self.active = size

    def part(self, name: str) -> Tensor:
        """The active slices of the parameter `name`."""
        parameter: Tensor = getattr(self, name)
        return parameter if self.active == self.size else self._slice(name, parameter, self.active)

    def sliced_state(self, size: int) -> dict[str, Tensor]:
        """The state of a fresh module of that size that inherits this module's weights."""
        return {name: self._slice(name, value, size).clone() for name, value in self.state_dict().items()}

    def _slice(self, name: str, value: Tensor, size: int) -> Tensor:
        axes = self.axes.get(name, ())
        part = value
        for axis in (axes,) if isinstance(axes, int) else axes:
            part = part.narrow(axis, 0, size)
        return part * math.sqrt(self.size / size) if self.balanced and name == self.summed else part
