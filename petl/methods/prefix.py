"""Prefix tuning."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Elastic, Handle, Instead
from petlas.petl.shape import BackboneShape


class Prefixes(Elastic):
    """p learned keys and p learned values (p, A) of an attention with A channels in all heads, normal, std 0.02.

    timm's attention takes q, k and v of one length from one fused layer. So p empty rows join its input, their keys
    and values are replaced behind that layer, and what their queries found is dropped in front of the projection: the
    attention itself stays timm's, fused or not, and what is hooked on it sees the N rows of the sequence only.
    """

    axes = {"keys": 0, "values": 0}

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count)
        self.keys = nn.Parameter(torch.empty(count, channels).normal_(0.0, 0.02))
        self.values = nn.Parameter(torch.empty(count, channels).normal_(0.0, 0.02))

    def insert(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Behind the fused layer: the keys and values of the last p rows of (B, N + p, 3 A)."""
        keys = self.part("keys")
        rows = torch.cat((torch.zeros_like(keys), keys, self.part("values")), dim=-1).to(output.dtype)
        return torch.cat((output[:, : -self.active], rows.expand(len(output), -1, -1)), dim=1)

    def leave(self, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """In front of the projection: (B, N + p, A) to (B, N, A)."""
        (x,) = args
        return (x[:, : -self.active],)


class Prefix(BlockMethod):
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
    size_means = "prefixes"
    default_size = 10
    zero_start = False
    mergeable = False

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """p keys and p values."""
        assert placement.size is not None
        return 2 * placement.size * shape.attention_width(placement.block)

    def build_block(self, shape: BackboneShape, placement: Placement) -> Prefixes:
        """The keys and values."""
        assert placement.size is not None
        return Prefixes(placement.size, shape.attention_width(placement.block))

    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """Around the attention, behind qkv, and in front of the projection."""
        assert isinstance(module, Prefixes)
        attention = block.get_submodule("attn")
        yield Instead(attention, partial(_attend, module, attention))
        yield block.get_submodule("attn.qkv").register_forward_hook(module.insert)
        yield block.get_submodule("attn.proj").register_forward_pre_hook(module.leave)


def _attend(prefixes: Prefixes, attention: nn.Module, x: Tensor, **masks: Any) -> Tensor:
    """The attention's own forward, on (B, N + p, D)."""
    attended: Tensor = type(attention).forward(attention, F.pad(x, (0, 0, 0, prefixes.active)), **masks)
    return attended
