"""Layers of the backbone in which designs train weights of their own, such as heads: those of several as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm
from torch import Tensor, nn

from petlas.petl.parts.handles import untouched
from petlas.petl.parts.joint import Join, Joint, ask, asks


def trained_layer(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module computes, as a function that `asks` for it where several modules of its type can be run as one.

    Args:
        module: The module.
    """
    function = _LAYERS.get(type(module)) if untouched(module) else None
    return module if function is None else partial(function, module)


@asks
def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return ask(_Linears, x, layer.weight, layer.bias)


@asks
def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return ask(_Norms, x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


_LAYERS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _norm,
    LayerNorm: _norm,
}


class _Linears(Joint):
    """Of several, a weight that they share is multiplied once, others in a batch of products."""

    @staticmethod
    def alone(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def kind(x: Tensor, weight: Tensor, bias: Tensor | None) -> Hashable:
        return x.shape, x.dtype, None if weight.requires_grad else id(weight), weight.shape, bias is None

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        xs, weights, biases = zip(*calls, strict=True)
        x, bias = join(xs), None if biases[0] is None else torch.stack(biases)[:, None]
        shape = (*x.shape[:-1], len(weights[0]))
        if not weights[0].requires_grad:
            z = F.linear(x, weights[0]).view(len(calls), -1, shape[-1])
            return (z if bias is None else z + bias).view(shape)
        rows, turned = x.reshape(len(calls), -1, x.shape[-1]), torch.stack(weights).mT
        return (rows @ turned if bias is None else torch.baddbmm(bias, rows, turned)).view(shape)


class _Norms(Joint):
    """Of several, what is normalised is so once, and scaled and shifted for each."""

    @staticmethod
    def alone(x: Tensor, axes: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return F.layer_norm(x, axes, weight, bias, eps)

    @staticmethod
    def kind(x: Tensor, axes: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Hashable:
        return x.shape, x.dtype, tuple(axes), weight is None, bias is None, eps

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        xs, (axes, *_), weights, biases, (eps, *_) = zip(*calls, strict=True)
        z = F.layer_norm(x := join(xs), axes, None, None, eps).view(len(calls), -1, *axes)
        weight, bias = (None if own[0] is None else torch.stack(own)[:, None] for own in (weights, biases))
        if weight is None or bias is None:
            z = z if weight is None else z * weight
            return (z if bias is None else z + bias).view_as(x)
        return torch.addcmul(bias, z, weight).view_as(x)
