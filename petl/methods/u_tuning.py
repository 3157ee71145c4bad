"""U-Tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.design import DesignError, Placement
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import Bottleneck, count_bottleneck
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BackboneShape, BlockShape

PLACES = ("attn", "mlp", "block")
"""The operations that a tuner can stand beside."""
TUNERS = ("adapter", "prefix", "none")


class Tuner(Bottleneck):
    """x (B, N, D) to V act(K x) (B, N, D), without biases: an adapter, or attention to h learned keys and values.

    The adapter's act is GELU. The prefix's is a softmax over the h keys, K x / sqrt(D): one head of attention whose
    query is the token itself.
    """

    def __init__(self, channels: int, width: int, kind: str, dropout: float) -> None:
        act = F.gelu if kind == "adapter" else partial(_attend, scale=1 / math.sqrt(channels))
        super().__init__(channels, width, act, dropout, bias=False)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    attn: str = "prefix"
    mlp: str = "none"
    block: str = "none"
    dropout: float = 0.0


class UTuning(BlockMethod[Options]):
    """A small tuner beside a frozen operation: y = OP(x) + Tuner(x), where OP is attention, MLP or the whole block.

    The options `attn`, `mlp` and `block` set what stands beside each operation and reads its input x (B, N, D):
    "adapter", V GELU(K x); "prefix", V softmax(K x / sqrt(D)); or "none". K (h, D), V (D, h), no biases. `size` is h,
    the width of an adapter and the length of a prefix. Count: 2 D h for each tuner, per block.

    No code is public, and the mix behind the published figure is not known. That figure, 0.36M with a head of 0.18M, is
    2 D h L = 184,320 for ViT-B/16 at h = 10, exactly what one tuner without biases at each block needs, and what a
    prefix has: by default there is a prefix beside the attention alone. Its query is the token, not the attention's own
    query, as a tuner is to be a function of the operation's input. The third kind of the paper, prompts that are keys
    and values in one, is left out: starting at zero, its prompts would stay equal to each other for ever.
    V starts at zero and K Kaiming: zero-start. A prefix of length 1 has no use of its key, as softmax over one is 1.
    Not mergeable. Source: Jiang et al., Rethinking Efficient Tuning Methods from a Unified Perspective, 2023.
    """

    name = "u_tuning"
    summary = "tuners beside the attention, the MLP or the block"
    paper = "U-Tuning (Jiang et al., 2023)"
    sites = ("attn", "mlp", "block")
    size_means = "width"
    default_size = 10
    zero_start = True
    mergeable = False
    option_type = Options

    def _tuners(self, placement: Placed[Options]) -> dict[str, str]:
        """The kind of tuner at each place that has one."""
        options = placement.options
        kinds = {"attn": options.attn, "mlp": options.mlp, "block": options.block}
        return {place: kind for place, kind in kinds.items() if kind != "none"}

    def sites_of(self, placement: Placement) -> tuple[str, ...]:
        """The operations that a tuner stands beside."""
        return tuple(self._tuners(self.placed(placement))) or self.sites

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """One bottleneck without biases for each tuner."""
        return len(self._tuners(placement)) * count_bottleneck(block.width, placement.size, bias=False)

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """The tuners by their place."""
        dropout, kinds = placement.options.dropout, self._tuners(placement)
        return nn.ModuleDict({at: Tuner(block.width, placement.size, kind, dropout) for at, kind in kinds.items()})

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the operations, whose inputs and outputs are at hand together."""
        for place, tuner in module.named_children():
            yield block.site(place).around(partial(_add_beside, tuner))

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse unknown tuners, and none at all."""
        tuners = self._tuners(placement)
        for place, kind in tuners.items():
            if kind not in TUNERS:
                known = ", ".join(TUNERS)
                raise DesignError(f"option {place} of u_tuning must be one of {known}, got {place}={kind!r}")
        if not tuners:
            places = ", ".join(PLACES)
            raise DesignError(f"u_tuning needs a tuner at one of {places}, got none at all; leave the placement out")


def _attend(scores: Tensor, scale: float) -> Tensor:
    return (scores * scale).softmax(dim=-1)


def _add_beside(tuner: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    added: Tensor = output + tuner(x)
    return added
