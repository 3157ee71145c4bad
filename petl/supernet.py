"""One backbone with all designs of a space in it: weights are shared, and a design is a slice of them."""

from __future__ import annotations

from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.check import parts_of
from petlas.petl.design import Design, DesignError
from petlas.petl.parts.elastic import Elastic
from petlas.petl.tuning import Tuning, apply, tuning_of


class Supernet:
    """A backbone that carries every placement at its largest size, and computes any design within.

    A design is made active by attaching its modules alone, each narrowed to the design's size, so that what is absent
    costs nothing. The modules are those of a stand-alone design: one that inherits its slices computes the same.

    Args:
        model: A backbone without a design; it is changed in place, as by `apply`.
        largest: All placements, each of its largest size.
        balanced: Whether narrow slices are scaled up to the magnitude of the largest size.

    Raises:
        DesignError: When the largest design cannot be inserted.
    """

    def __init__(self, model: nn.Module, largest: Design, balanced: bool = True) -> None:
        self.model = apply(model, largest)
        self.largest = largest
        self.active = largest
        self._sizes = {(p.method, p.block): p for p in largest.placements}
        for module in self.tuning.modules():
            if isinstance(module, Elastic):
                module.balanced = balanced

    @property
    def tuning(self) -> Tuning:
        """The shared modules and the head: what is trained and saved."""
        return tuning_of(self.model)

    def activate(self, design: Design) -> nn.Module:
        """Let the model compute a design.

        Returns:
            The model.

        Raises:
            DesignError: When the design has a placement that the supernet does not carry at that size.
        """
        if design != self.active:
            self._check(design)
            tuning_of(self.model).connect(self.model, design)
            self.active = design
        return self.model

    def inherited(self, design: Design) -> dict[str, Tensor]:
        """The tuned state of a stand-alone design that has the supernet's weights, head included."""
        self._check(design)
        head = family_of(self.model).head(self.model)
        state = {f"head.{key}": value.detach().clone() for key, value in head.state_dict().items()}
        for method, placements in parts_of(design):
            inherited = method.sliced(self.tuning.get_submodule(method.name), placements)
            state |= {f"{method.name}.{key}": value for key, value in inherited.items()}
        return state

    def _check(self, design: Design) -> None:
        for placement in design.placements:
            largest = self._sizes.get((placement.method, placement.block))
            if largest is None or largest.options != placement.options or (largest.size or 0) < (placement.size or 0):
                carried = "none there" if largest is None else largest.to_dict()
                raise DesignError(f"a design must lie within the supernet, got {placement.to_dict()}; it has {carried}")
