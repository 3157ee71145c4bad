"""SSF."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.frozen_linear import scale_shift, scaled_affine, scaled_linear
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.joint import Join, Joint, ask, asks
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, Layer


class ScaleShift(nn.Module):
    """z (..., C) to gamma * z + beta, drawn as gamma ~ N(1, std) and beta ~ N(0, std)."""

    zeros: Tensor
    ones: Tensor

    def __init__(self, channels: int, std: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(channels).normal_(1.0, std))
        self.shift = nn.Parameter(torch.empty(channels).normal_(0.0, std))
        self.register_buffer("zeros", torch.zeros(channels), persistent=False)
        self.register_buffer("ones", torch.ones(channels), persistent=False)

    def forward(self, z: Tensor, channel: int) -> Tensor:
        """Scale and shift along the axis `channel`."""
        if channel != -1:
            return scale_shift(z, self.scale, self.shift, self.unit)
        return scale_shift(z.flatten(0, -2), self.scale, self.shift, self.unit).view_as(z)

    @property
    def unit(self) -> tuple[Tensor, Tensor]:
        """What `scale_shift` needs beside."""
        return self.zeros, self.ones


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
    any_site = True
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
        """In each linear layer's and norm's own product; else on the layer's output."""
        family = family_of(model)
        for layer, _ in self._layers(family.shape(model), placements):
            site, item = family.layer_site(model, layer), module.get_submodule(layer.key)
            inside = INSIDE.get(type(site.module)) if site.untouched else None
            if inside is None:
                yield site.change(partial(_scale_shift, item, site.channels))
            else:
                yield site.replace(partial(inside, item, site.module))

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


@asks
def _scaled_linear(item: ScaleShift, layer: nn.Linear, x: Tensor) -> Tensor:
    if layer.weight.requires_grad:
        return item(F.linear(x, layer.weight, layer.bias), -1)  # type: ignore[no-any-return]
    return scaled_linear(x, layer, item.scale, item.shift, item.unit)


@asks
def _scaled_norm(item: ScaleShift, norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return ask(_ScaledNorms, x, norm.normalized_shape, norm.weight, norm.bias, norm.eps, item.scale, item.shift)


class _ScaledNorms(Joint):
    """The norm scales and shifts anyway; of several, it runs once."""

    @staticmethod
    def alone(x: Tensor, axes: Any, weight: Any, bias: Any, eps: float, scale: Tensor, shift: Tensor) -> Tensor:
        if weight is not None:
            scale, shift = scaled_affine(weight, bias, scale, shift)
        return F.layer_norm(x, axes, scale, shift, eps)

    @staticmethod
    def kind(x: Tensor, axes: Any, weight: Any, bias: Any, eps: float, *others: Any) -> Hashable:
        return x.shape, x.dtype, id(weight), id(bias)

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        xs, (axes, *_), (weight, *_), (bias, *_), (eps, *_), scales, shifts = zip(*calls, strict=True)
        z = F.layer_norm(join(xs), axes, weight, bias, eps)
        scale, shift = (torch.stack(own)[:, None] for own in (scales, shifts))
        return torch.addcmul(shift, z.view(len(calls), -1, z.shape[-1]), scale).view_as(z)


def _scaled_batch_norm(item: ScaleShift, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Its statistics are the frozen backbone's; timm has norms that end in an activation, which comes behind."""
    weight, shift = scaled_affine(norm.weight, norm.bias, item.scale, item.shift)
    z = F.batch_norm(x, norm.running_mean, norm.running_var, weight, shift, training=False, eps=norm.eps)
    return norm.act(norm.drop(z)) if isinstance(norm, BatchNormAct2d) else z


INSIDE: dict[type[nn.Module], Callable[[Any, Any, Tensor], Tensor]] = {
    nn.Linear: _scaled_linear,
    nn.LayerNorm: _scaled_norm,
    LayerNorm: _scaled_norm,
    nn.BatchNorm2d: _scaled_batch_norm,
    BatchNormAct2d: _scaled_batch_norm,
}
"""By the exact type of a layer: what computes it with its scale and shift in it."""
