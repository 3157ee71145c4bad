"""LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.frozen_linear import updated_linear
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.joint import asks
from petlas.petl.parts.low_rank import LowRank, LowRankMethod, by_layer, hidden_units, spread
from petlas.petl.parts.products import add_product


class LoRA(LowRankMethod):
    """Low-rank updates of linear layers, by default of the query and value projections: y = W x + b + s B A x.

    A is (r, inputs), B (outputs, r) and s = alpha / r. `targets` names the layers among q, k, v, proj, fc1 and fc2;
    timm fuses q, k and v into one linear layer with rows [q; k; v], and the updates of q, k and v go to the thirds of
    its output. `size` is the rank r. Count: r (inputs + outputs) for each target: 4 D r per block for q and v
    (294,912 for ViT-B/16 at r = 8), 18 D r for all six (1,327,104). Zero-start (B = 0), mergeable: the rows of W that
    belong to a target grow by s B A. `alpha` defaults to the rank, that is a scale of 1 for every rank; `dropout` acts
    on x in front of A. Source: Hu et al., LoRA, 2022.
    """

    name = "lora"
    summary = "low-rank updates of q and v, or of other linear layers"
    paper = "LoRA (Hu et al., 2022)"
    known_strong = True
    part = LowRank

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """In each layer's own product; on its output, where others act on it before."""
        for layer, parts in by_layer(block.shape, module):
            site = block.behind(layer)
            if site.untouched and type(site.module) is nn.Linear:
                yield site.replace(partial(_updated, parts, _shares(parts), site.module))
            else:
                yield site.around(partial(_add_updates, parts))

    @torch.no_grad()
    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """Into the targets' rows of each weight."""
        for layer, parts in by_layer(block.shape, module):
            weight = block.matrix(layer)
            for start, part in parts:
                weight[start : start + len(part.up)] += part.delta()


@asks
def _updated(parts: tuple[tuple[int, LowRank], ...], shares: slice, layer: nn.Linear, x: Tensor) -> Tensor:
    _, first = parts[0]
    if layer.weight.requires_grad or (first.dropout and first.training):
        return _add_updates(parts, x, F.linear(x, layer.weight, layer.bias))
    downs, ups = ([part.part(name) for _, part in parts] for name in ("down", "up"))
    return updated_linear(x, layer, downs, ups, shares, first.scale)


def _shares(parts: tuple[tuple[int, LowRank], ...]) -> slice:
    """Which of the equal shares of a layer's rows the parts update; of three shares any choice is an even one."""
    indices = [start // len(part.up) for start, part in parts]
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    return slice(indices[0], indices[-1] + 1, step)


def _add_updates(parts: tuple[tuple[int, LowRank], ...], x: Tensor, output: Tensor) -> Tensor:
    ups = spread(((start, part.scaled_up()) for start, part in parts), output.shape[-1])
    return add_product(output, hidden_units([part for _, part in parts], x), ups)
