"""SNF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed, whole
from petlas.petl.parts.stream import Carry
from petlas.petl.shape import BlockShape


class Flow(Carry):
    """What a flow F changes of x (B, N, D): F(x) - x, for an affine map and then K planar flows.

    z <- shift + exp(log_scale) x, then z <- z + u tanh(w z + b) for each. It acts on a shortcut, as part of the branch
    beside it, and works at a pair of sites: at one it keeps the stream, at the other it adds to the branch.
    """

    def __init__(self, channels: int, flows: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        if flows:
            self.w = nn.Parameter(torch.empty(flows, channels).uniform_(-0.01, 0.01))
            self.u = nn.Parameter(torch.empty(flows, channels).uniform_(-0.01, 0.01))
            self.b = nn.Parameter(torch.empty(flows).uniform_(-0.01, 0.01))
        self.flows = flows

    def forward(self, x: Tensor) -> Tensor:
        """F(x) - x, which is what loses no digits where F is near the identity."""
        change = torch.addcmul(self.shift, x, self.log_scale.expm1())
        for k in range(self.flows):
            inner = (x + change) @ self.w[k] + self.b[k]
            change = change + inner.tanh()[..., None] * self.u[k]
        return change

    def write(self, branch: Tensor) -> Tensor:
        """Behind the branch (B, N, D): add the change, which then reaches the stream with it."""
        changed: Tensor = branch + self(self.carried())
        return changed


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    flows: int = whole(0, least=0)


class SNF(BlockMethod[Options]):
    """Flows on both shortcuts of a block: x <- F1(x) + Attn(LN x), x <- F2(x) + MLP(LN x).

    F is an affine map followed by K planar flows, on each token by itself. Option `flows` is K. Count:
    2 (2 D + K (2 D + 1)) per block (ViT-B/16: 36,864 at K = 0, 73,752 at K = 1). The published K is not established:
    K = 0, whose count is the one in the abstract, is the default; the public code's is 16. Zero-start at K = 0; for
    K > 0 only near, as w, u and b are uniform in +-0.01 by definition. Not mergeable: a shortcut has no weight. The
    paper's extra loss term is not part of it; its public blocks do without, too. Source: Wang et al., Adapting
    Shortcut with Normalizing Flow, 2023.
    """

    name = "snf"
    summary = "normalising flows on the shortcuts"
    paper = "SNF (Wang et al., 2023)"
    sites = ("shortcut1", "shortcut2")
    any_site = True
    needs = ("attn.stream", "attn.residual", "mlp.stream", "mlp.residual")
    zero_start = True
    mergeable = False
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """Two flows."""
        return len(block.branches) * (2 * block.width + placement.options.flows * (2 * block.width + 1))

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One flow for each shortcut."""
        flows = placement.options.flows
        return nn.ModuleDict({branch: Flow(block.width, flows) for branch in block.branches})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """From the stream that each branch reads to the branch's end, behind drop-path."""
        for branch in block.shape.branches:
            flow = module.get_submodule(branch)
            assert isinstance(flow, Flow)
            yield block.site(f"{branch}.stream").read(flow.carry)
            yield block.site(f"{branch}.residual").change(flow.write)
