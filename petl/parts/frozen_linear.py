"""Frozen linear layers that compute what is trained on them in their own product.

An update of a weight costs a pass over the weight, and none over the layer's output: that is less as soon as there are
more tokens than channels. In the backward pass the gradients of the trained factors are formed from the layer's input
and the gradient of its output, each read once for each factor, and never as the gradient of the whole weight.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.parts.casts import frozen_cast
from petlas.petl.parts.joint import Join, Joint, ask, stacked
from petlas.petl.parts.products import as_gradient, operation, product_type


def updated_linear(
    x: Tensor, layer: nn.Linear, downs: Iterable[Tensor], ups: Iterable[Tensor], shares: slice, scale: float
) -> Tensor:
    """x (W + s U D)^T + b, (..., O), for a low-rank update of some of c equal shares of the rows of W (O, I).

    It is `ask`ed for.

    Args:
        x: (..., I).
        layer: With a frozen weight W, and a bias b or none.
        downs: D (r, I) of each of the n updated shares.
        ups: U (O / c, r) of each.
        shares: Which n of the c shares are updated.
        scale: s.
    """
    return ask(_UpdatedLinears, x, layer.weight, layer.bias, tuple(downs), tuple(ups), shares, scale)


def scaled_linear(x: Tensor, layer: nn.Linear, scale: Tensor, shift: Tensor, unit: tuple[Tensor, Tensor]) -> Tensor:
    """gamma (W x + b) + beta, (..., O), with gamma and beta (O,): `ask`ed for.

    Args:
        x: (..., I).
        layer: With a frozen weight W, and a bias b or none.
        scale: gamma.
        shift: beta.
        unit: As for `scale_shift`.
    """
    return ask(_ScaledLinears, x, layer.weight, layer.bias, scale, shift, unit)


def scale_shift(z: Tensor, scale: Tensor, shift: Tensor, unit: tuple[Tensor, Tensor]) -> Tensor:
    """gamma z + beta along the axis 1 of z (B, C, ...), in the type of z.

    This is a batch norm with mean 0 and variance 1: its backward pass forms both gradients in one pass, in float32.

    Args:
        z: (B, C, ...).
        scale: gamma (C,).
        shift: beta (C,).
        unit: Zeros and ones (C,).
    """
    # not torch.nn.functional's, which refuses an epsilon of 0 up to torch 2.13
    return torch.batch_norm(z, scale, shift, *unit, False, 0.0, 0.0, False)


def scaled_affine(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """gamma w and gamma b + beta, (C,) each, of a norm that multiplies by w and adds b.

    Args:
        weight: w (C,).
        bias: b (C,); None for 0.
        scale: gamma (C,).
        shift: beta (C,).
    """
    if torch.is_grad_enabled() and bias is not None:
        found: tuple[Tensor, Tensor] = _ScaledAffine.apply(weight, bias, scale, shift)
        return found
    return scale * weight, shift if bias is None else torch.addcmul(shift, scale, bias)


class _ScaledAffine(torch.autograd.Function):
    """In half as many operations as one by one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, bias, scale)
        return scale * weight, torch.addcmul(shift, scale, bias)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, scale = ctx.saved_tensors
        wants, grad_scale = ctx.needs_input_grad, torch.addcmul(of_weight * weight, of_bias, bias)
        return of_weight * scale if wants[0] else None, of_bias * scale if wants[1] else None, grad_scale, of_bias


def _effective(weight: Tensor, downs: Tensor, ups: Tensor, shares: slice, scale: float) -> Tensor:
    effective = weight.clone()
    effective.view(-1, ups.shape[1], weight.shape[1])[shares].baddbmm_(ups, downs, alpha=scale)
    return effective


class _UpdatedLinears(Joint):
    """Of several, one layer's weight is updated for each, and products are batched; smaller ranks end in zeros."""

    @staticmethod
    def alone(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        downs: tuple[Tensor, ...],
        ups: tuple[Tensor, ...],
        shares: slice,
        scale: float,
    ) -> Tensor:
        return operation(_Updated, x, weight, bias, shares, scale, *downs, *ups)

    @staticmethod
    def kind(
        x: Tensor, weight: Tensor, bias: Tensor | None, downs: tuple[Tensor, ...], ups: Any, shares: slice, scale: float
    ) -> Hashable:
        return x.shape, x.dtype, id(weight), id(bias), len(downs), (shares.start, shares.stop, shares.step), scale

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        xs, (weight, *_), (bias, *_), downs, ups, (shares, *_), (scale, *_) = zip(*calls, strict=True)
        sizes = len(calls), len(downs[0])
        down = stacked([down for own in downs for down in own]).unflatten(0, sizes)
        up = stacked([up for own in ups for up in own], 1).unflatten(0, sizes)
        return operation(_SeveralUpdated, join(xs), weight, bias, down, up, shares, scale)


class _Updated(torch.autograd.Function):
    """Of all D, one by one, and behind them all U; these are put into one vector, which is cast at once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shares: slice,
        scale: float,
        *factors: Tensor,
    ) -> Tensor:
        dtype, count = product_type(x), len(factors) // 2
        vector = torch.cat([factor.reshape(-1) for factor in factors])
        ctx.shapes = (count, *factors[0].shape), (count, *factors[-1].shape)
        downs, ups = _factors(vector, *ctx.shapes)
        effective, x = _effective(weight, downs, ups, shares, scale).to(dtype), x.to(dtype)
        ctx.save_for_backward(x, effective, vector)
        ctx.shares, ctx.scale = shares, scale
        return F.linear(x, effective, None if bias is None else frozen_cast(bias, dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, effective, vector = ctx.saved_tensors
        (shares, rank, inputs), (_, outputs, _) = ctx.shapes
        rows, grads = x.reshape(-1, inputs), grad.flatten(0, -2)
        downs, ups = _factors(vector.to(x.dtype), *ctx.shapes)
        # (n, M, O / c): what reached the updated shares. Few hidden units lie in long rows, as in `products.reduce`.
        parts = grads.view(len(grads), -1, outputs).transpose(0, 1)[ctx.shares]
        hidden = (downs.view(-1, inputs) @ rows.t()).view(shares, rank, -1)
        turned = torch.bmm(ups.mT, parts.mT).view(shares * rank, -1)
        grad_downs = as_gradient(turned @ rows).view(shares, rank, inputs)
        grad_ups = as_gradient(torch.bmm(hidden, parts).mT)
        if ctx.scale != 1:
            grad_downs, grad_ups = grad_downs * ctx.scale, grad_ups * ctx.scale
        grad_x = grad @ effective if ctx.needs_input_grad[0] else None
        grad_bias = grads.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, None, None, *grad_downs.unbind(), *grad_ups.unbind()


def _factors(vector: Tensor, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two tensors that lie behind one another in a vector."""
    size = math.prod(first)
    return vector[:size].view(first), vector[size:].view(second)


class _SeveralUpdated(torch.autograd.Function):
    """As `_Updated`, of M designs' images x (M B, ..., I), D (M, n, r, I) and U (M, n, O / c, r)."""

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
        dtype, size = product_type(x), len(downs)
        effective = weight.repeat(size, 1, 1)
        updated = effective.unflatten(1, (-1, ups.shape[-2])).unbind(1)[shares]
        for part, up, down in zip(updated, ups.unbind(1), downs.unbind(1), strict=True):
            part.baddbmm_(up, down, alpha=scale)  # in place, autocast does not cast
        effective, rows = effective.to(dtype), x.reshape(size, -1, x.shape[-1]).to(dtype)
        ctx.save_for_backward(rows, effective, downs, ups)
        ctx.shares, ctx.scale, ctx.shape = shares, scale, x.shape
        bias = None if bias is None else frozen_cast(bias, dtype).to(dtype)
        product = rows @ effective.mT if bias is None else torch.baddbmm(bias, rows, effective.mT)
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, effective, downs, ups = ctx.saved_tensors
        grads = grad.reshape(*rows.shape[:-1], -1)
        hidden = (downs.flatten(1, 2).to(rows.dtype) @ rows.mT).unflatten(1, downs.shape[1:3])  # (M, n, r, B N)
        parts = grads.unflatten(-1, (-1, ups.shape[-2])).unbind(-2)[ctx.shares]
        turned = [up.to(rows.dtype).mT @ part.mT for up, part in zip(ups.unbind(1), parts, strict=True)]
        grad_downs = (torch.cat(turned, 1) @ rows).unflatten(1, downs.shape[1:3])
        grad_ups = torch.stack([(own @ part).mT for own, part in zip(hidden.unbind(1), parts, strict=True)], 1)
        if ctx.scale != 1:
            grad_downs, grad_ups = grad_downs * ctx.scale, grad_ups * ctx.scale
        grad_x = (grads @ effective).view(ctx.shape) if ctx.needs_input_grad[0] else None
        grad_bias = grads.sum((0, 1)) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, grad_downs, grad_ups, None, None


def _frozen(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a frozen layer computes."""
    dtype = product_type(x)
    return F.linear(x, frozen_cast(weight, dtype), None if bias is None else frozen_cast(bias, dtype))


class _ScaledLinears(Joint):
    """Of several, the layer runs once."""

    @staticmethod
    def alone(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, unit: Any) -> Tensor:
        return operation(_Folded if _folds(x, scale) else _Scaled, x, weight, bias, scale, shift, *unit)

    @staticmethod
    def kind(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Hashable:
        return x.shape, x.dtype, id(weight), id(bias)

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        xs, (weight, *_), (bias, *_), scales, shifts, _ = zip(*calls, strict=True)
        return operation(_SeveralScaled, join(xs), weight, bias, torch.stack(scales), torch.stack(shifts))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *unit: Tensor
    ) -> Tensor:
        z = _frozen(x, weight, bias)
        ctx.save_for_backward(weight, scale, z, *unit)
        return scale_shift(z.flatten(0, -2), scale, shift, (unit[0], unit[1])).view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, z, zeros, ones = ctx.saved_tensors
        want = ctx.needs_input_grad
        # mean and deviation twice: a GPU takes the ones, a CPU the others
        _, grad_scale, grad_shift = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, -2), z.flatten(0, -2), scale, zeros, ones, zeros, ones, False, 0.0, [False, True, True]
        )
        grad_x = grad @ torch.mul(weight, scale[:, None], out=grad.new_empty(weight.shape)) if want[0] else None
        grad_bias = scale * grad_shift if want[2] else None
        return grad_x, None, grad_bias, grad_scale, grad_shift, None, None


def _folds(x: Tensor, scale: Tensor) -> bool:
    """Whether gamma goes into the weight in the forward pass, too, which then takes none over the output.

    It does where there are more tokens than inputs, and no gamma by which the output cannot be divided. On a GPU the
    question alone would cost a wait.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return x.shape[:-1].numel() >= x.shape[-1] and torch.linalg.vector_norm(scale, -math.inf).item() >= _LEAST


_LEAST = 0.1
"""A gamma that is smaller would lose digits of what is divided by it."""


class _Folded(torch.autograd.Function):
    """As `_Scaled`; what the layer gives without gamma and beta is known from what it gives with them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *unit: Tensor
    ) -> Tensor:
        scaled = torch.mul(weight, scale[:, None], out=weight.new_empty(weight.shape, dtype=product_type(x)))
        y = F.linear(x, scaled, shift if bias is None else torch.addcmul(shift, scale, bias))
        ctx.save_for_backward(scaled, scale, shift, y, unit[1])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled, scale, shift, y, ones = ctx.saved_tensors
        want = ctx.needs_input_grad
        _, grad_scale, grad_shift = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, -2), y.flatten(0, -2), scale, shift, ones, None, None, False, 0.0, [False, True, True]
        )
        grad_bias = scale * grad_shift if want[2] else None
        return grad @ scaled if want[0] else None, None, grad_bias, grad_scale / scale, grad_shift, None, None


class _SeveralScaled(torch.autograd.Function):
    """As `_Scaled`, of M designs' images x (M B, ..., I), gamma and beta (M, O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> Tensor:
        z = _frozen(x, weight, bias)
        each, dtype = z.view(len(scale), -1, z.shape[-1]), z.dtype
        ctx.save_for_backward(weight, scale, each)
        return torch.addcmul(shift[:, None].to(dtype), each, scale[:, None].to(dtype)).view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, z = ctx.saved_tensors
        grads = grad.reshape(z.shape)
        grad_scale, grad_shift = (grads * z).sum(1, dtype=scale.dtype), grads.sum(1, dtype=scale.dtype)
        grad_bias = (scale * grad_shift).sum(0) if ctx.needs_input_grad[2] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            scaled = torch.mul(weight, scale[..., None], out=grad.new_empty(len(scale), *weight.shape))
            grad_x = (grads @ scaled).view(*grad.shape[:-1], -1)
        return grad_x, None, grad_bias, grad_scale, grad_shift
