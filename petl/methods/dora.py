"""DoRA."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.low_rank import LowRank, LowRankMethod, LowRankOptions, by_layer, hidden_units, spread
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.products import add_product
from petlas.petl.shape import BlockShape


class Decomposed(LowRank):
    """A low-rank update of the direction of weight rows (outputs, inputs), and the magnitudes m (outputs,)."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None, dropout: float) -> None:
        super().__init__(inputs, outputs, rank, alpha, dropout)
        self.magnitude = nn.Parameter(torch.ones(outputs))
        self._measured = False

    @torch.no_grad()
    def measure(self, weight: Tensor) -> None:
        """Start from the magnitudes of the frozen rows; only the first time, as later ones have been trained."""
        if not self._measured:
            self.magnitude.copy_(self._norm(weight))
            self._measured = True

    def gain(self, weight: Tensor) -> Tensor:
        """m / ||W + s B A||, (outputs,); the norm counts as a constant in the backward pass, as in the paper."""
        return self.magnitude / self._norm(weight)

    @torch.no_grad()
    def _norm(self, weight: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(weight + self.delta(), dim=1)
        return norm.clamp_min(torch.finfo(norm.dtype).tiny)  # a row of zeros stays one


class DoRA(LowRankMethod):
    """LoRA on the direction of each weight row, beside a trained magnitude: W' = m (W + s B A) / ||W + s B A||.

    The norm is that of each row, so m is (outputs,); it starts as ||W||. A, B, s, `targets`, `alpha` and `size` are
    those of `lora`. Count: r (inputs + outputs) + outputs for each target: (4 r + 2) D per block for q and v (313,344
    for ViT-B/16 at r = 8), (18 r + 9) D for all six (1,410,048). Zero-start (B = 0), mergeable: W' takes the place of
    W. As in the paper (section 4.3), the norm is a constant to the gradients. `dropout` acts on x in front of A only;
    the authors' code drops the input of the frozen product too, which would cost a second product. Source: Liu et
    al., DoRA, 2024.
    """

    name = "dora"
    summary = "low-rank updates of the direction of weight rows, and their magnitudes"
    paper = "DoRA (Liu et al., 2024)"
    replaces = "the frozen linear weights"
    part = Decomposed

    def count_block(self, block: BlockShape, placement: Placed[LowRankOptions]) -> int:
        """A, B and the magnitudes of each target."""
        magnitudes = sum(outputs for _, outputs in self.sides(block, placement).values())
        return super().count_block(block, placement) + magnitudes

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the output of each layer, whose weight gives the magnitudes to start from."""
        for layer, parts in by_layer(block.shape, module):
            linear = block.layer(layer)
            for rows, part in _rows(parts):
                part.measure(block.matrix(layer)[rows])
            yield block.behind(layer).around(partial(_decompose, parts, linear))

    @torch.no_grad()
    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """In place of the targets' rows of each weight."""
        for layer, parts in by_layer(block.shape, module):
            weight = block.matrix(layer)
            for rows, part in _rows(parts):
                weight[rows] = part.gain(weight[rows])[:, None] * (weight[rows] + part.delta())


def _rows(parts: tuple[tuple[int, LowRank], ...]) -> Iterator[tuple[slice, Decomposed]]:
    for start, part in parts:
        assert isinstance(part, Decomposed)
        yield slice(start, start + len(part.up)), part


def _decompose(parts: tuple[tuple[int, LowRank], ...], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    weight = layer.get_parameter("weight").flatten(1)
    gains = [part.gain(weight[rows])[:, None] for rows, part in _rows(parts)]
    starts = [start for start, _ in parts]
    # The frozen product is at hand in the output, with the bias, to which the gain does not apply.
    change = spread(zip(starts, (gain - 1 for gain in gains), strict=True), output.shape[-1]).sum(dim=1)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    offset = torch.zeros_like(change) if layer.bias is None else -change * layer.bias
    scaled = torch.addcmul(offset, output, 1 + change).to(output.dtype)
    ups = [gain * part.scaled_up() for gain, (_, part) in zip(gains, parts, strict=True)]
    hidden = hidden_units([part for _, part in parts], x)
    return add_product(scaled, hidden, spread(zip(starts, ups, strict=True), output.shape[-1]))
