"""SNF."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.shape import BackboneShape


class Flow(nn.Module):
    """What a flow F changes of x (B, N, D): F(x) - x, for an affine map and then K planar flows.

    z <- shift + exp(log_scale) x, then z <- z + u tanh(w z + b) for each. It acts on a shortcut, as part of the branch
    beside it, and works on a pair of hooks: one keeps the stream, the other adds to the branch.
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
        self._stream: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """F(x) - x, which is what loses no digits where F is near the identity."""
        change = torch.addcmul(self.shift, x, self.log_scale.expm1())
        for k in range(self.flows):
            inner = (x + change) @ self.w[k] + self.b[k]
            change = change + inner.tanh()[..., None] * self.u[k]
        return change

    def read(self, layer: nn.Module, args: tuple[Tensor]) -> None:
        """In front of the branch's norm: keep the stream."""
        self._stream = args[0]

    def write(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Behind the branch: add the change, which then reaches the stream with the branch."""
        stream, self._stream = self._stream, None
        assert stream is not None
        changed: Tensor = output + self(stream)
        return changed


class SNF(BlockMethod):
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
    zero_start = True
    mergeable = False
    options = {"flows": 0}

    def _flows(self, placement: Placement) -> int:
        return int(self.option(placement, "flows") or 0)

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """Two flows."""
        return 2 * (2 * shape.width + self._flows(placement) * (2 * shape.width + 1))

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One flow for each shortcut."""
        flows = self._flows(placement)
        return nn.ModuleDict({"attn": Flow(shape.width, flows), "mlp": Flow(shape.width, flows)})

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """From the norm in front of each branch to the branch's end, drop-path."""
        for name, norm, end in (("attn", "norm1", "drop_path1"), ("mlp", "norm2", "drop_path2")):
            flow = module.get_submodule(name)
            assert isinstance(flow, Flow)
            yield block.get_submodule(norm).register_forward_pre_hook(flow.read)
            yield block.get_submodule(end).register_forward_hook(flow.write)

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, K counts flows."""
        super().check(shape, placement)
        flows = self.option(placement, "flows")
        if not isinstance(flows, int) or flows < 0:
            raise DesignError(f"option flows of snf must be a whole number of at least 0, got flows={flows!r}")
