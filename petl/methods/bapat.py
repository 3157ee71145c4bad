"""BAPAT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed, whole
from petlas.petl.parts.products import reduce, widen
from petlas.petl.shape import BlockShape

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


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    scale: float = 0.2
    mlp_width: int = whole(64)


class BAPAT(BlockMethod[Options]):
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
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """W1 and W2, Down and Up."""
        attention = (block.width + 2 * block.attention_width) * placement.size
        return attention + 2 * block.width * placement.options.mlp_width

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """The updates and the adapter."""
        keys_and_values, options = 2 * block.attention_width, placement.options
        return nn.ModuleDict(
            {
                "attn": Updates(block.width, keys_and_values, placement.size, options.scale),
                "mlp": Branch(block.width, options.mlp_width),
            }
        )

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the keys and values, and on the output of the MLP."""
        updates, branch = module.get_submodule("attn"), module.get_submodule("mlp")
        for layer in block.shape.linears:
            own = tuple(name for name in layer.names if name in ("k", "v"))
            if own:
                before = layer.share * layer.names.index(own[0])
                yield block.behind(layer).around(partial(_update, updates, own, before))
        yield block.site("mlp").around(partial(_add, branch))


def _update(updates: nn.Module, own: tuple[str, ...], before: int, a: Tensor, output: Tensor) -> Tensor:
    """A layer's output with the updates of its own shares, behind so many channels of others."""
    change = updates(a)
    if len(own) == 1:  # keys and values have a layer each
        change = change.chunk(2, dim=-1)[("k", "v").index(own[0])]
    return output + F.pad(change, (before, output.shape[-1] - before - change.shape[-1]))


def _add(branch: nn.Module, b: Tensor, output: Tensor) -> Tensor:
    added: Tensor = output + branch(b)
    return added
