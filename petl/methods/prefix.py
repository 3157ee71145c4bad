"""Prefix tuning."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.shape import BlockShape


class Prefixes(Elastic):
    """p learned keys and p learned values (p, A) of an attention with A channels in all heads, normal, std 0.02."""

    axes = {"keys": 0, "values": 0}
    undecayed = ("keys", "values")

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count)
        self.keys = nn.Parameter(torch.empty(count, channels).normal_(0.0, 0.02))
        self.values = nn.Parameter(torch.empty(count, channels).normal_(0.0, 0.02))

    def forward(self) -> tuple[Tensor, Tensor]:
        """The keys and the values in use, (p, A) each."""
        return self.part("keys"), self.part("values")


class Prefix(BlockMethod[NoOptions]):
    """Learned keys and values that every token attends to: k <- [k; P_k], v <- [v; P_v], with the heads split after.

    The sequence itself does not grow. `size` is the number of prefixes p. Count: 2 p D per block (184,320 for ViT-B/16
    at p = 10): the bare P, as vision tables count it, without the network that generated P in the language original.
    Its init is not established for vision; normal with a standard deviation of 0.02 is taken, as for timm's tokens.
    By definition not zero-start; not mergeable. On a backbone with a norm of keys, P_k passes it as all keys do.
    Source: Li and Liang, Prefix-Tuning, 2021.
    """

    name = "prefix"
    summary = "learned keys and values in the attention"
    paper = "Prefix-Tuning (Li and Liang, 2021)"
    sites = ("attn.k", "attn.v")
    needs = ("attn.keys",)
    size_means = "prefixes"
    default_size = 10
    zero_start = False
    mergeable = False
    option_type = NoOptions

    def count_block(self, block: BlockShape, placement: Placed[NoOptions]) -> int:
        """p keys and p values."""
        return 2 * placement.size * block.attention_width

    def build_block(self, block: BlockShape, placement: Placed[NoOptions]) -> Prefixes:
        """The keys and values."""
        return Prefixes(placement.size, block.attention_width)

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """Among the keys and values of the attention."""
        assert isinstance(module, Prefixes)
        yield from block.family.more_keys(block, module)
