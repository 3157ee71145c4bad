"""LoRA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import BlockMethod, Elastic, Handle
from petlas.petl.shape import BackboneShape


class LowRank(Elastic):
    """x (B, N, inputs) to scale * x A^T B^T (B, N, outputs): A (r, inputs) Kaiming, B (outputs, r) zero, no bias."""

    axes = {"down": 0, "up": 1}

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None, dropout: float) -> None:
        super().__init__(rank)
        self.alpha = alpha
        self.dropout = dropout
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @property
    def scale(self) -> float:
        """alpha / r with the active rank; 1 where no alpha is set."""
        return 1.0 if self.alpha is None else self.alpha / self.active

    def forward(self, x: Tensor) -> Tensor:
        """The low-rank update of a linear layer's output, from its input."""
        x = F.dropout(x, self.dropout, self.training)
        return F.linear(F.linear(x, self.part("down")), self.part("up")) * self.scale

    def delta(self) -> Tensor:
        """The update of the weight, (outputs, inputs)."""
        return self.scale * self.part("up") @ self.part("down")


class LoRA(BlockMethod):
    """Low-rank updates of the query and value projections: y = W x + b + (alpha / r) B A x.

    timm fuses q, k and v into one linear layer with rows [q; k; v]; the two updates go to the q and v thirds of its
    output. `size` is the rank r. Count: 4 D r per block (294,912 for ViT-B/16 at r = 8). Zero-start (B = 0),
    mergeable: W_q += (alpha / r) B_q A_q, W_v likewise. `alpha` defaults to the rank, that is a scale of 1 for every
    rank. Source: Hu et al., LoRA, 2022.
    """

    name = "lora"
    summary = "low-rank updates of q and v"
    paper = "LoRA (Hu et al., 2022)"
    sites = ("attn.q", "attn.v")
    size_means = "rank"
    default_size = 8
    zero_start = True
    mergeable = True
    known_strong = True
    options = {"alpha": None, "dropout": 0.0}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """A and B for each of q and v."""
        assert placement.size is not None
        return 4 * shape.width * placement.size

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One `LowRank` for q and one for v."""
        assert placement.size is not None
        alpha, dropout = self.option(placement, "alpha"), self.option(placement, "dropout")
        make = partial(
            LowRank,
            inputs=shape.width,
            outputs=shape.width,
            rank=placement.size,
            alpha=None if alpha is None else float(alpha),
            dropout=float(dropout or 0.0),
        )
        return nn.ModuleDict({"q": make(), "v": make()})

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """On the output of `attn.qkv`."""
        yield block.get_submodule("attn.qkv").register_forward_hook(partial(_add_updates, module))

    def merge_block(self, block: nn.Module, module: nn.Module) -> None:
        """Into the q and v rows of the fused weight."""
        weight = block.get_parameter("attn.qkv.weight")
        q, v = module.get_submodule("q"), module.get_submodule("v")
        assert isinstance(q, LowRank) and isinstance(v, LowRank)
        width = len(weight) // 3
        with torch.no_grad():
            weight[:width] += q.delta()
            weight[2 * width :] += v.delta()

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse a backbone whose q, k and v are not fused and equally wide."""
        super().check(shape, placement)
        layer = shape.layer(f"blocks.{placement.block}.attn.qkv")
        if layer.outputs != 3 * shape.width:
            raise DesignError(f"lora needs a fused qkv layer of 3 x {shape.width} outputs, got {layer.outputs}")


def _add_updates(updates: nn.Module, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    q, k, v = output.chunk(3, dim=-1)
    (x,) = args
    q_update, v_update = updates.get_submodule("q"), updates.get_submodule("v")
    return torch.cat((q + q_update(x), k, v + v_update(x)), dim=-1)
