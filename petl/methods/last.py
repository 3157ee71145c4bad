"""Low-rank attention side-tuning."""

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
from petlas.petl.parts.products import widen
from petlas.petl.parts.side import SITES as SIDE
from petlas.petl.parts.side import DetachedSide, attend
from petlas.petl.shape import BackboneShape


class LowRankAttention(Elastic):
    """v (B, N, D) to Up(softmax(q k^T / sqrt(r)) v) with q, k, v = W LN(v) of r channels each (B, N, D).

    W (3, r, D) is uniform in +-1/sqrt(D), Up (D, r) zero; no biases but the norm's. Parameters: 4 D r + 2 D.
    """

    axes = {"qkv": 1, "up": 1}
    summed = "up"

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__(rank)
        self.norm = nn.Parameter(torch.ones(channels))
        self.norm_bias = nn.Parameter(torch.zeros(channels))
        self.qkv = nn.Parameter(torch.empty(3, rank, channels).uniform_(-(channels**-0.5), channels**-0.5))
        self.up = nn.Parameter(torch.zeros(channels, rank))

    def forward(self, v: Tensor) -> Tensor:
        """The attention's output, zero at the start."""
        a = F.layer_norm(v, (v.shape[-1],), self.norm, self.norm_bias, 1e-6)
        q, k, v = F.linear(a, self.part("qkv").flatten(0, 1)).chunk(3, dim=-1)
        return widen(attend(q, k, v, self.active), self.part("up"))


class LowRankSide(DetachedSide):
    """The side network: a low-rank attention for the embedding and for each block."""

    def __init__(self, channels: int, rank: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LowRankAttention(channels, rank) for _ in range(depth + 1))

    def forward(self, *z: Tensor) -> Tensor:
        """z_0 .. z_L, each (B, N, D), to z_L and what the side network has added (B, N, D)."""
        features, added = torch.zeros_like(z[0]), torch.zeros_like(z[0])
        for layer, tokens in zip(self.layers, z, strict=True):
            features = features + tokens
            added = added + layer(features + added)
        return z[-1] + added

    def replace(self, z: Tensor) -> Tensor:
        """In front of the final norm: put the corrected tokens in place of the backbone's (B, N, D)."""
        corrected: Tensor = self(*self.close())
        return corrected


class LAST(Method[NoOptions]):
    """Low-rank attention beside the frozen backbone: v_i = u_(i-1) + z_i and u_i = v_i + A_i(v_i), with u_(-1) = 0.

    z_0 (B, N, D) enters the backbone's first block and z_i leaves its i-th, all detached; A_i is layer norm and
    single-head attention among r channels, `size`, without an MLP. The bias correction u_L - (z_0 + .. + z_(L-1)),
    that is z_L and the sum of what the attentions have added, goes to the backbone's final norm and head; it is
    computed in the latter form, so that the start is exact. Count: (L + 1)(4 D r + 2 D) (658,944 for ViT-B/16 at
    r = 16). Zero-start, not mergeable: attention is no linear layer.

    This is a reconstruction, as no code is public: the paper says that low-rank self-attention on a side path reads
    the frozen outputs, and that sums of the z_i are taken off. Chosen here: L + 1 attentions without biases (12 with
    biases would be 618,048, and reach the published 0.66M only with the head); all z_i but the last are taken off, so
    that the head keeps its input; Up = 0 at the start; no scale, no dropout. Source: Tang et al., Low-rank Attention
    Side-Tuning, 2024.
    """

    name = "last"
    summary = "low-rank attention beside the frozen backbone"
    paper = "LAST (Tang et al., 2024), a reconstruction"
    sites = ("tokens", "head")
    needs = (*SIDE, "norm.in")
    size_means = "rank"
    default_size = 16
    zero_start = True
    mergeable = False
    blockwise = False
    in_blocks = False
    in_backbone = True
    replaces = "the head's input"
    through_backbone = False
    final_norm = True
    option_type = NoOptions

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """The attentions with their norms."""
        return sum((shape.depth + 1) * (4 * shape.width * p.size + 2 * shape.width) for p in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> LowRankSide:
        """One side network."""
        (placement,) = placements
        return LowRankSide(shape.width, placement.size, shape.depth)

    def looks(self, placements: Sequence[Placement], depth: int) -> frozenset[int]:
        """All of them."""
        return frozenset(range(depth + 1))

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """Read at the blocks, write in front of the final norm."""
        assert isinstance(module, LowRankSide)
        yield from module.attach(model)
        yield family_of(model).site(model, "norm.in").change(module.replace)
