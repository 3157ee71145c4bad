"""What a space chooses: the size of a method at a place, and how deep a method goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from petlas.petl.design import Option, Placement


@dataclass(frozen=True)
class Dimension:
    """One choice: the size of one method at one place.

    Args:
        method: The method's name.
        block: Block index, or None for the whole backbone.
        sizes: The sizes to choose from, increasing; 0 is absent. (0, 1) for a method without sizes.
        options: The method's fixed options, as sorted pairs.
        sized: Whether the method has sizes, or is only absent or present.
    """

    method: str
    block: int | None
    sizes: tuple[int, ...]
    options: tuple[tuple[str, Option], ...] = ()
    sized: bool = True

    @property
    def name(self) -> str:
        """The choice's name, such as `lora.3` or `bitfit`."""
        return self.method if self.block is None else f"{self.method}.{self.block}"

    @property
    def high(self) -> int:
        """The largest size's index."""
        return len(self.sizes) - 1

    @cached_property
    def placements(self) -> tuple[Placement | None, ...]:
        """The placement of each size; None where the size is 0."""
        sizes = ((size, size if self.sized else None) for size in self.sizes)
        return tuple(Placement(self.method, self.block, s, self.options) if size else None for size, s in sizes)


@dataclass(frozen=True)
class DepthRule:
    """NOAH's rule: the first d blocks of a method have a size above 0 and the others none, for a d of the list."""

    method: str
    depths: tuple[int, ...]

    @property
    def name(self) -> str:
        """The choice's name, such as `depth.lora`."""
        return f"depth.{self.method}"

    @property
    def high(self) -> int:
        """The largest depth's index."""
        return len(self.depths) - 1
