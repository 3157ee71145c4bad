"""Partial fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import SubsetMethod
from petlas.petl.shape import BackboneShape, Layer


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

    def _layers(self, shape: BackboneShape, placement: Placement) -> list[Layer]:
        blocks = [layer for block in _last(shape, placement) for layer in shape.layers_of(block)]
        return blocks + [layer for layer in shape.layers if layer.path in ("norm", "fc_norm")]

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """All of the last blocks, and the norms behind them."""
        (placement,) = placements
        scales = 2 * shape.width * len(_last(shape, placement)) if shape.layer_scale else 0
        return scales + sum(
            layer.outputs * ((layer.inputs if layer.kind == "linear" else 1) + layer.bias)
            for layer in self._layers(shape, placement)
        )

    def paths(self, shape: BackboneShape, placements: Sequence[Placement]) -> list[str]:
        """Every parameter of the last blocks, and of the norms behind them."""
        (placement,) = placements
        scales = [f"blocks.{i}.{ls}.gamma" for i in _last(shape, placement) for ls in ("ls1", "ls2")]
        layers = [path for layer in self._layers(shape, placement) for path in layer.parameters]
        return layers + (scales if shape.layer_scale else [])

    def sliced(self, module: nn.Module, placements: Sequence[Placement]) -> dict[str, Tensor]:
        """The values of the last blocks alone."""
        (placement,) = placements
        state = super().sliced(module, placements)
        blocks = sorted({int(path.split(".")[1]) for path in state if path.startswith("blocks.")})
        first = blocks[-(placement.size or 0)]
        return {path: v for path, v in state.items() if _block_of(path) >= first}

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse more blocks than there are."""
        super().check(shape, placement)
        if (placement.size or 0) > shape.depth:
            raise DesignError(
                f"partial takes at most the {shape.depth} blocks of {shape.name}, got size={placement.size}"
            )


def _last(shape: BackboneShape, placement: Placement) -> range:
    return range(shape.depth - (placement.size or 0), shape.depth)


def _block_of(path: str) -> float:
    """The block's index; what stands behind the blocks counts as after all of them."""
    return int(path.split(".")[1]) if path.startswith("blocks.") else math.inf
