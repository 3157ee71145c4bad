"""Ladder side-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.design import Placement
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.side import SITES as SIDE
from petlas.petl.parts.side import DetachedSide, attend, trunc_normal
from petlas.petl.shape import BackboneShape

HEAD = 8
"""Channels of a side head: an eighth of the 64 of a vision transformer's head, as W is of D."""

_EPS = 1e-6


class Down(Elastic):
    """z (B, N, D) to W channels (B, N, W): a rung of the ladder."""

    axes = {"weight": 0, "bias": 0}

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(width)
        self.weight = trunc_normal(width, channels)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, z: Tensor) -> Tensor:
        """The tokens in the side network's width."""
        return F.linear(z, self.part("weight"), self.part("bias"))


class Up(Elastic):
    """h (B, N, W) to LN(h) and back to D channels (B, N, D)."""

    axes = {"norm": 0, "norm_bias": 0, "weight": 1}

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(width)
        self.norm = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.weight = trunc_normal(channels, width)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        """The tokens in the backbone's width."""
        h = F.layer_norm(h, (self.active,), self.part("norm"), self.part("norm_bias"), _EPS)
        return F.linear(h, self.part("weight"), self.bias)


class SideBlock(Elastic):
    """A pre-norm transformer block of width W on h (B, N, W); q, k, v and the four parts of the MLP have an own axis.

    Parameters: 12 W^2 + 13 W.
    """

    axes = {
        "norm1": 0,
        "norm1_bias": 0,
        "qkv": (1, 2),
        "qkv_bias": 1,
        "proj": (0, 1),
        "proj_bias": 0,
        "norm2": 0,
        "norm2_bias": 0,
        "fc1": (1, 2),
        "fc1_bias": 1,
        "fc2": (0, 2),
        "fc2_bias": 0,
    }

    undecayed = ("qkv_bias", "fc1_bias")

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm1, self.norm2 = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.qkv = trunc_normal(3, width, width)
        self.proj = trunc_normal(width, width)
        self.fc1 = trunc_normal(4, width, width)
        self.fc2 = trunc_normal(width, 4, width)
        self.qkv_bias = nn.Parameter(torch.zeros(3, width))
        self.fc1_bias = nn.Parameter(torch.zeros(4, width))
        for name in ("norm1_bias", "proj_bias", "norm2_bias", "fc2_bias"):
            self.register_parameter(name, nn.Parameter(torch.zeros(width)))

    def forward(self, h: Tensor) -> Tensor:
        """h + attention(LN h), and + MLP(LN h)."""
        w = {name: self.part(name) for name in self.axes}
        a = F.layer_norm(h, (self.active,), w["norm1"], w["norm1_bias"], _EPS)
        q, k, v = F.linear(a, w["qkv"].flatten(0, 1), w["qkv_bias"].flatten()).chunk(3, dim=-1)
        h = h + F.linear(attend(q, k, v, HEAD), w["proj"], w["proj_bias"])
        b = F.layer_norm(h, (self.active,), w["norm2"], w["norm2_bias"], _EPS)
        hidden = F.gelu(F.linear(b, w["fc1"].flatten(0, 1), w["fc1_bias"].flatten()))
        return h + F.linear(hidden, w["fc2"].flatten(1), w["fc2_bias"])


class Ladder(DetachedSide):
    """The side network: L + 1 rungs, L gates, L blocks and the way back up."""

    temperature = 0.1

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.downs = nn.ModuleList(Down(channels, width) for _ in range(depth + 1))
        self.gates = nn.Parameter(torch.zeros(depth))
        self.blocks = nn.ModuleList(SideBlock(width) for _ in range(depth))
        self.up = Up(channels, width)

    def forward(self, *z: Tensor) -> Tensor:
        """z_0 .. z_L, each (B, N, D), to tokens (B, N, D) for the head."""
        h, *rungs = (down(tokens) for down, tokens in zip(self.downs, z, strict=True))
        for gate, rung, block in zip((self.gates / self.temperature).sigmoid(), rungs, self.blocks, strict=True):
            h = block(gate * h + (1 - gate) * rung)
        up: Tensor = self.up(h)
        return up

    def replace(self, normed: Tensor) -> Tensor:
        """Behind the final norm: put the side network's tokens in place of the backbone's (B, N, D)."""
        tokens: Tensor = self(*self.close())
        return tokens


class LST(Method[NoOptions]):
    """A small transformer beside the frozen backbone: h_i = Block_i(mu_i h_(i-1) + (1 - mu_i) D_i z_i).

    z_0 (B, N, D) enters the backbone's first block and z_i leaves its i-th, all detached; h_0 = D_0 z_0; D_i brings D
    channels down to W, `size`; mu_i = sigmoid(alpha_i / 0.1) with alpha_i = 0 at the start; Block_i is a pre-norm
    transformer block of width W with an MLP of 4 W and biases, whatever the backbone has; U LN(h_L) (B, N, D) takes the
    place of the final norm's output, is pooled as the backbone pools, and goes to the head (a norm behind the pooling
    is skipped, as it is the backbone's final norm). Count: L (12 W^2 + 13 W) + (L + 1)(D W + W) + (W D + D) + 2 W + L
    (2,376,492 for ViT-B/16 at W = 96: one rung for the embedding and 12 for the blocks; 12 rungs in all would not give
    the published 2.38M). Not zero-start, as nothing of the backbone's output is left; not mergeable.

    The paper is about language models. Read for vision transformers: heads of 8 channels, which at W = D / 8 are as
    many as the backbone's, so that a narrower network is a slice of a wider one; all weights drawn as a vision
    transformer's, truncated normal of 0.02 with zero biases, where the paper may also start from a pruned backbone.
    Source: Sung et al., LST: Ladder Side-Tuning, 2022.
    """

    name = "lst"
    summary = "a small transformer beside the frozen backbone"
    paper = "LST (Sung et al., 2022)"
    sites = ("tokens", "head")
    needs = (*SIDE, "norm.out", "pooled")
    size_means = "width"
    default_size = 96
    zero_start = False
    mergeable = False
    blockwise = False
    in_blocks = False
    in_backbone = True
    replaces = "the head's input"
    through_backbone = False
    final_norm = True
    option_type = NoOptions

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """Blocks, rungs, the way up with its norm, and gates."""
        d, depth = shape.width, shape.depth
        return sum(
            depth * (12 * w * w + 13 * w) + (depth + 1) * (d * w + w) + (w * d + d) + 2 * w + depth
            for w in (p.size for p in placements)
        )

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> Ladder:
        """One ladder."""
        (placement,) = placements
        return Ladder(shape.width, placement.size, shape.depth)

    def looks(self, placements: Sequence[Placement], depth: int) -> frozenset[int]:
        """All of them."""
        return frozenset(range(depth + 1))

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """Read at the blocks, write at the final norm, and skip a norm behind the pooling."""
        assert isinstance(module, Ladder)
        yield from module.attach(model)
        family = family_of(model)
        yield family.site(model, "norm.out").change(module.replace)
        yield family.site(model, "pooled").around(_skip)


def _skip(pooled: Tensor, normed: Tensor) -> Tensor:
    return pooled
