"""BitFit."""

from __future__ import annotations

from collections.abc import Sequence

from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.subset_method import SubsetMethod
from petlas.petl.shape import BackboneShape, Layer, Other


class BitFit(SubsetMethod):
    """The biases of all linear, norm and patch-embedding layers are trained, and nothing else.

    At a block it takes that block's biases only. Count: the sum of the layers' bias lengths, L * 11 D + 2 D for a
    plain ViT (102,912 for ViT-B/16). Source: Zaken et al., BitFit, 2022.
    """

    name = "bitfit"
    summary = "the biases are trained"
    paper = "BitFit (Zaken et al., 2022)"
    sites = ("patch_embed", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "norm", "biases")
    any_site = True
    known_strong = True

    def _layers(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[Layer]:
        return [layer for p in placements for layer in shape.layers_of(p.place) if layer.bias]

    def _others(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[Other]:
        """The biases that a backbone has apart from their layers, such as those of q and v."""
        places = {p.place for p in placements}
        return [other for other in shape.others if other.bias and places & {None, other.block}]

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """One number for each output of each layer with a bias."""
        others = sum(other.entries for other in self._others(shape, placements))
        return others + sum(layer.outputs for layer in self._layers(shape, placements))

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """The bias of each layer."""
        own = [layer.parameters[1] for layer in self._layers(shape, placements)]
        return own + [other.path for other in self._others(shape, placements)]
