"""SSF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, Layer


class ScaleShift(nn.Module):
    """z (..., C) to gamma * z + beta, drawn as gamma ~ N(1, std) and beta ~ N(0, std)."""

    def __init__(self, channels: int, std: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(channels).normal_(1.0, std))
        self.shift = nn.Parameter(torch.empty(channels).normal_(0.0, std))

    def forward(self, z: Tensor, channel: int) -> Tensor:
        """Scale and shift along the axis `channel`."""
        if channel == -1:
            return torch.addcmul(self.shift, z, self.scale)
        ones = (1,) * (z.ndim - channel - 1)
        return z * self.scale.view(-1, *ones) + self.shift.view(-1, *ones)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    init_std: float = 0.02


class SSF(Method[Options]):
    """A learned scale and shift behind every linear, norm and patch-embedding layer: y = gamma * z + beta.

    At a block it takes that block's layers only. Count: twice the outputs of those layers, 2 (L * 11 D + 2 D) for a
    plain ViT (205,824 for ViT-B/16). gamma ~ N(1, 0.02) and beta ~ N(0, 0.02) by definition, so that the start is
    near the backbone but not equal to it; `init_std: 0` makes it equal. Mergeable: W <- diag(gamma) W,
    b <- gamma * b + beta. Source: Lian et al., Scaling & Shifting Your Features, 2022.
    """

    name = "ssf"
    summary = "a scale and a shift behind every layer"
    paper = "SSF (Lian et al., 2022)"
    sites = ("patch_embed", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "norm")
    zero_start = False
    mergeable = True
    shifts_keys = True
    in_backbone = True
    known_strong = True
    option_type = Options

    def _layers(
        self, shape: BackboneShape, placements: Sequence[Placed[Options]]
    ) -> Iterator[tuple[Layer, Placed[Options]]]:
        return ((layer, p) for p in placements for layer in shape.layers_of(p.place))

    def count(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> int:
        """Two numbers for each output of each layer."""
        return sum(2 * layer.outputs for layer, _ in self._layers(shape, placements))

    def build(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> Tree:
        """A `ScaleShift` under each layer's name."""
        tree = Tree()
        for layer, placement in self._layers(shape, placements):
            tree.add(layer.key, ScaleShift(layer.outputs, placement.options.init_std))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> Iterator[Handle]:
        """On the output of each layer."""
        family = family_of(model)
        for layer, _ in self._layers(family.shape(model), placements):
            site = family.layer_site(model, layer)
            yield site.change(partial(_scale_shift, module.get_submodule(layer.key), site.channels))

    @torch.no_grad()
    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> None:
        """Into each layer's weight and bias; a layer without a bias gets one."""
        family = family_of(model)
        for layer, _ in self._layers(family.shape(model), placements):
            own, item = model.get_submodule(layer.path), module.get_submodule(layer.key)
            assert isinstance(item, ScaleShift)
            weight = own.get_parameter("weight")
            weight.mul_(item.scale.view(-1, *(1,) * (weight.ndim - 1)))
            bias = family.bias(model, layer)
            family.set_bias(model, layer, item.shift if bias is None else bias * item.scale + item.shift)


def _scale_shift(item: nn.Module, channel: int, output: Tensor) -> Tensor:
    scaled: Tensor = item(output, channel)
    return scaled
