"""BAPAT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import BlockMethod, Elastic, Handle
from petlas.petl.methods.narrow import reduce, widen
from petlas.petl.shape import BackboneShape

MLP_SCALE = 0.1


class Updates(Elastic):
    """a (B, N, D) to updates of keys and values, s W2 tanh(W1 a) (B, N, 2 A): W1 (m, D), W2 (2 A, m), both Kaiming.

    W2 is drawn as a layer with m inputs, of the full size: a narrowed module keeps what it has.
    """

    axes = {"down": 0, "up": 1}
    summed = "up"

    def __init__(self, inputs: int, outputs: int, width: int, scale: float) -> None:
        super().__init__(width)
        self.scale = scale
        self.down = nn.Parameter(torch.empty(width, inputs))
        self.up = nn.Parameter(torch.empty(outputs, width))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.up, a=math.sqrt(5))

    def forward(self, a: Tensor) -> Tensor:
        """The updates."""
        return widen(reduce(a, self.part("down")).tanh(), self.part("up")) * self.scale


class Branch(nn.Module):
    """b (B, N, D) to 0.1 Up(ReLU(Down b)), without biases; Down (f, D) Kaiming, Up (D, f) zero."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(width, channels))
        self.up = nn.Parameter(torch.zeros(channels, width))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, b: Tensor) -> Tensor:
        """The branch, zero at the start."""
        return widen(reduce(b, self.down).relu(), self.up) * MLP_SCALE


class BAPAT(BlockMethod):
    """Parallel attention and a parallel adapter: [k, v] += s W2 tanh(W1 a), and MLP(b) += 0.1 Up(ReLU(Down b)).

    a and b are the outputs of norm1 and norm2, so that the adapter stands inside the MLP branch, before LayerScale and
    drop-path. `size` is the width m of W1; option `mlp_width` is the adapter's, 64. Count: 3 D m + 2 D f per block
    (2,064,384 for ViT-B/16 at m = 32). That is the count without biases, which were chosen accordingly; the public
    code is built of linear layers with biases. W2 is drawn like any linear layer: by definition not zero-start. `scale`
    s is 0.2, the code's default; its README runs m = 128 with 0.8. Not mergeable (tanh, ReLU). Source: Yu et al.,
    Towards a Unified View on Visual Parameter-Efficient Transfer Learning, 2022.
    """

    name = "bapat"
    summary = "updates of k and v, and a bottleneck parallel to the MLP"
    paper = "BAPAT (Yu et al., 2022)"
    sites = ("attn.k", "attn.v", "mlp")
    size_means = "width"
    default_size = 32
    zero_start = False
    mergeable = False
    options = {"scale": 0.2, "mlp_width": 64}

    def _mlp_width(self, placement: Placement) -> int:
        return int(self.option(placement, "mlp_width") or 0)

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """W1 and W2, Down and Up."""
        assert placement.size is not None
        attention = (shape.width + 2 * shape.attention_width(placement.block)) * placement.size
        return attention + 2 * shape.width * self._mlp_width(placement)

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """The updates and the adapter."""
        assert placement.size is not None
        keys_and_values = 2 * shape.attention_width(placement.block)
        scale = float(self.option(placement, "scale") or 0.0)
        return nn.ModuleDict(
            {
                "attn": Updates(shape.width, keys_and_values, placement.size, scale),
                "mlp": Branch(shape.width, self._mlp_width(placement)),
            }
        )

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """On the outputs of qkv and of the MLP."""
        updates, branch = module.get_submodule("attn"), module.get_submodule("mlp")
        yield block.get_submodule("attn.qkv").register_forward_hook(partial(_update, updates))
        yield block.get_submodule("mlp").register_forward_hook(partial(_add, branch))

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, the adapter's width counts channels."""
        super().check(shape, placement)
        width = self.option(placement, "mlp_width")
        if not isinstance(width, int) or width < 1:
            raise DesignError(
                f"option mlp_width of bapat must be a whole number of at least 1, got mlp_width={width!r}"
            )


def _update(updates: nn.Module, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    change = updates(args[0])
    return output + F.pad(change, (output.shape[-1] - change.shape[-1], 0))


def _add(branch: nn.Module, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    added: Tensor = output + branch(args[0])
    return added
