"""LN-tune."""

from __future__ import annotations

from collections.abc import Sequence

from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.subset_method import SubsetMethod
from petlas.petl.shape import BackboneShape, Layer


class LNTune(SubsetMethod):
    """The weights and biases of all norm layers are trained, and nothing else.

    At a block it takes that block's norms only. Count: twice the norms' channels, L * 4 D + 2 D for a plain ViT
    (38,400 for ViT-B/16). Which layers: those that have "norm" in their name, as in V-PETL Bench; on a backbone with
    them, norms of queries and keys and the norm behind the pooling are among these. Source: Basu et al., Strong
    Baselines for Parameter-Efficient Few-Shot Fine-Tuning, 2023.
    """

    name = "ln_tune"
    summary = "the norm layers are trained"
    paper = "LN-Tune (Basu et al., 2023)"
    sites = ("norm1", "norm2", "norm", "norms")
    any_site = True

    def _layers(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[Layer]:
        return [layer for p in placements for layer in shape.layers_of(p.place) if layer.kind == "norm"]

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """A weight, and a bias where there is one, for each channel."""
        return sum(layer.outputs * (1 + layer.bias) for layer in self._layers(shape, placements))

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """The weight and the bias of each norm."""
        return [path for layer in self._layers(shape, placements) for path in layer.parameters]
