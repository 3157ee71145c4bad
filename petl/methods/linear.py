"""Linear probing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from petlas.petl.design import Placement
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.subset_method import SubsetMethod
from petlas.petl.shape import BackboneShape


class Linear(SubsetMethod):
    """Only the head is trained: the design without placements says the same. 0 parameters, head excluded."""

    name = "linear"
    summary = "only the head is trained"
    paper = "linear probing"
    sites = ("head",)
    in_blocks = False
    through_backbone = False
    known_strong = True

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """Nothing but the head, which is not counted."""
        return 0

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """None."""
        return []

    def enters(self, placements: Sequence[Placement], block: int) -> Hashable:
        """Nothing."""
        return ()

    def baseline(self, shape: BackboneShape, size: int | None) -> tuple[Placement, ...]:
        """The empty design."""
        return ()
