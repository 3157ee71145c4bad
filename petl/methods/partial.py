"""Partial fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.subset_method import SubsetMethod
from petlas.petl.shape import BackboneShape, Layer, Other, Scale


class Partial(SubsetMethod):
    """The last blocks are trained whole, with the norms behind them, and nothing else.

    `size` is the number of blocks k. Count: k (12 D^2 + 13 D) + 2 D for a plain ViT (7,089,408 for ViT-B/16 at k = 1),
    that is Partial-k as VPT counts it, final norm included; LayerScale vectors belong to their block. Source: Yosinski
    et al., How transferable are features in deep neural networks?, 2014, as set by VPT.
    """

    name = "partial"
    summary = "the last blocks are trained"
    paper = "partial fine-tuning (Yosinski et al., 2014; Jia et al., 2022)"
    sites = ("block", "norm")
    size_means = "blocks"
    default_size = 1
    in_blocks = False

    def _layers(self, shape: BackboneShape, placement: Placed[NoOptions]) -> list[Layer]:
        blocks = [layer for block in _last(shape, placement) for layer in shape.layers_of(block)]
        return blocks + [layer for layer in shape.layers if layer.block is None and layer.names == ("norm",)]

    def _scales(self, shape: BackboneShape, placement: Placed[NoOptions]) -> list[Scale]:
        return [scale for scale in shape.scales if scale.block in _last(shape, placement)]

    def _others(self, shape: BackboneShape, placement: Placed[NoOptions]) -> list[Other]:
        return [other for other in shape.others if other.block in _last(shape, placement)]

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """All of the last blocks, and the norms behind them."""
        (placement,) = placements
        others = sum(other.entries for other in self._others(shape, placement))
        scales = sum(scale.length for scale in self._scales(shape, placement))
        return others + scales + sum(layer.size for layer in self._layers(shape, placement))

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """Every parameter of the last blocks, and of the norms behind them."""
        (placement,) = placements
        layers = [path for layer in self._layers(shape, placement) for path in layer.parameters]
        scales = [scale.path for scale in self._scales(shape, placement)]
        return layers + scales + [other.path for other in self._others(shape, placement)]

    def untouched(self, placements: Sequence[Placement], depth: int) -> int:
        """All but the last."""
        return min((depth - (placement.size or 0) for placement in placements), default=depth)

    def sliced(self, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> dict[str, Tensor]:
        """The values of the last blocks alone."""
        (placement,) = placements
        state = super().sliced(module, placements)
        blocks = sorted({int(path.split(".")[1]) for path in state if path.startswith("blocks.")})
        first = blocks[-placement.size]
        return {path: v for path, v in state.items() if _block_of(path) >= first}

    def check_fit(self, shape: BackboneShape, placement: Placed[NoOptions]) -> None:
        """Beyond the common rules, refuse more blocks than there are."""
        if placement.size > shape.depth:
            raise DesignError(
                f"partial takes at most the {shape.depth} blocks of {shape.name}, got size={placement.size}"
            )


def _last(shape: BackboneShape, placement: Placed[NoOptions]) -> range:
    return range(shape.depth - placement.size, shape.depth)


def _block_of(name: str) -> float:
    """The block's index; what stands behind the blocks counts as after all of them."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else math.inf
