"""Attentions that use the weight of q, k and v without calling the layer, with biases that stand apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petlas.petl.backbones.base import Family
from petlas.petl.design import DesignError
from petlas.petl.shape import Layer

NAMES = ("q_bias", "k_bias", "v_bias")


class SeparateBias(Family):
    """A family some of whose attentions have `q_bias`, `v_bias` and a `k_bias` that stays zero, beside `qkv`.

    They compute `F.linear(x, self.qkv.weight, bias)`, with these three as the bias.
    """

    def is_shadowed(self, model: nn.Module, path: str) -> bool:
        """Whether it is the fused layer of an attention that has these biases."""
        parent, _, name = path.rpartition(".")
        attention = model.get_submodule(parent)
        separate = getattr(attention, "qkv_bias_separate", False)
        return name == "qkv" and getattr(attention, "q_bias", None) is not None and not separate

    def bias(self, model: nn.Module, layer: Layer) -> Tensor | None:
        """The three in a row, for the fused layer."""
        if not layer.shadowed:
            return super().bias(model, layer)
        attention = model.get_submodule(layer.path.rpartition(".")[0])
        return torch.cat([getattr(attention, name) for name in NAMES]).detach()

    def set_bias(self, model: nn.Module, layer: Layer, value: Tensor) -> None:
        """Into those of q and v; that of k is no parameter, so it has to stay.

        Raises:
            DesignError: When that of k would have to change.
        """
        if not layer.shadowed:
            super().set_bias(model, layer, value)
            return
        attention = model.get_submodule(layer.path.rpartition(".")[0])
        parts = dict(zip(NAMES, value.detach().chunk(3), strict=True))
        if not torch.equal(parts["k_bias"], attention.get_buffer("k_bias")):
            raise DesignError(
                f"keys have no bias in this backbone, and the design gives them one at {layer.path}; use the adapter "
                "as it is, unmerged"
            )
        with torch.no_grad():
            attention.get_parameter("q_bias").copy_(parts["q_bias"])
            attention.get_parameter("v_bias").copy_(parts["v_bias"])
