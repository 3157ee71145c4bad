"""Frozen linear layers that compute what is trained on them in their own product.

An update of a weight costs a pass over the weight, and none over the layer's output: that is less as soon as there are
more tokens than channels. In the backward pass the gradients of the trained factors are formed from the layer's input
and the gradient of its output, each read once for each factor, and never as the gradient of the whole weight.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.parts.products import operation, product_type


def updated_linear(x: Tensor, layer: nn.Linear, downs: Tensor, ups: Tensor, shares: slice, scale: float) -> Tensor:
    """x (W + s U D)^T + b, (..., O), for a low-rank update of some of c equal shares of the rows of W (O, I).

    Args:
        x: (..., I).
        layer: With a frozen weight W, and a bias b or none.
        downs: D of each updated share (n, r, I).
        ups: U of each updated share (n, O / c, r).
        shares: Which n of the c shares are updated.
        scale: s.
    """
    return operation(_Updated, x, layer.weight, layer.bias, downs, ups, shares, scale)


def scaled_linear(x: Tensor, layer: nn.Linear, scale: Tensor, shift: Tensor, unit: tuple[Tensor, Tensor]) -> Tensor:
    """gamma (W x + b) + beta, (..., O), with gamma and beta (O,).

    Args:
        x: (..., I).
        layer: With a frozen weight W, and a bias b or none.
        scale: gamma.
        shift: beta.
        unit: As for `scale_shift`.
    """
    return operation(_Scaled, x, layer.weight, layer.bias, scale, shift, *unit)


def scale_shift(z: Tensor, scale: Tensor, shift: Tensor, unit: tuple[Tensor, Tensor]) -> Tensor:
    """gamma z + beta along the axis 1 of z (B, C, ...), in the type of z.

    This is a batch norm with mean 0 and variance 1: its backward pass forms both gradients in one pass, in float32.

    Args:
        z: (B, C, ...).
        scale: gamma (C,).
        shift: beta (C,).
        unit: Zeros and ones (C,).
    """
    return F.batch_norm(z, *unit, scale, shift, training=False, eps=0.0)


def _effective(weight: Tensor, downs: Tensor, ups: Tensor, shares: slice, scale: float) -> Tensor:
    effective = weight.clone()
    effective.view(-1, ups.shape[1], weight.shape[1])[shares].baddbmm_(ups, downs, alpha=scale)
    return effective


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        downs: Tensor,
        ups: Tensor,
        shares: slice,
        scale: float,
    ) -> Tensor:
        dtype = product_type(x)
        effective, x = _effective(weight, downs, ups, shares, scale).to(dtype), x.to(dtype)
        ctx.save_for_backward(x, effective, downs, ups)
        ctx.shares, ctx.scale = shares, scale
        return F.linear(x, effective, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, effective, downs, ups = ctx.saved_tensors
        shares, rank = len(downs), downs.shape[1]
        rows, grads = x.flatten(0, -2), grad.flatten(0, -2)
        # (n, M, O / c): what reached the updated shares. Few hidden units lie in long rows, as in `products.reduce`.
        parts = grads.unflatten(1, (-1, ups.shape[1])).transpose(0, 1)[ctx.shares]
        hidden = downs.flatten(0, 1).to(x.dtype) @ rows.t()
        turned = torch.bmm(ups.to(x.dtype).transpose(1, 2), parts.transpose(1, 2))
        grad_downs = (turned.flatten(0, 1) @ rows).unflatten(0, (shares, rank))
        grad_ups = torch.bmm(hidden.unflatten(0, (shares, rank)), parts).transpose(1, 2)
        if ctx.scale != 1:
            grad_downs, grad_ups = grad_downs * ctx.scale, grad_ups * ctx.scale
        grad_x = grad @ effective if ctx.needs_input_grad[0] else None
        grad_bias = grads.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, grad_downs, grad_ups, None, None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *unit: Tensor
    ) -> Tensor:
        z = F.linear(x, weight, bias)
        ctx.save_for_backward(weight, scale, z, *unit)
        return scale_shift(z.flatten(0, -2), scale, shift, (unit[0], unit[1])).view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, z, zeros, ones = ctx.saved_tensors
        want = ctx.needs_input_grad
        _, grad_scale, grad_shift = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, -2), z.flatten(0, -2), scale, zeros, ones, None, None, False, 0.0, [False, True, True]
        )
        grad_x = grad @ torch.mul(weight, scale[:, None], out=grad.new_empty(weight.shape)) if want[0] else None
        grad_bias = scale * grad_shift if want[2] else None
        return grad_x, None, grad_bias, grad_scale, grad_shift, None, None
