"""A bottleneck and the sum that it ends in, as one operation with a backward pass of its own.

What a bottleneck computes is little, and takes as long as a step has many operations: so the gradients are formed here
with as few as there can be, and the hidden units lie in long rows throughout, see `products.reduce`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.petl.parts.joint import Join, Joint, ask, stacked
from petlas.petl.parts.products import as_gradient, operation, product_type

Layers: TypeAlias = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Down (h, D), b (h,), Up (D, h), c (D,)."""

DERIVATIVES: dict[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_backward.default,
    F.relu: lambda grad, z: torch.ops.aten.threshold_backward.default(grad, z, 0),
    F.silu: torch.ops.aten.silu_backward.default,
}
"""By an activation: what makes the gradient of its input z from that of its output."""


def add_branch(
    base: Tensor | None,
    x: Tensor,
    layers: Layers,
    act: Callable[[Tensor], Tensor],
    dropout: float = 0.0,
    scale: float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """base + s k (Up dropout(act(Down x + b)) + c), (B, N, D), for s a number and k one for each image: `ask`ed for.

    Args:
        base: (B, N, D); None for x.
        x: (B, N, D).
        layers: Down (h, D), b (h,), Up (D, h), c (D,); both biases or none.
        act: One of `DERIVATIVES`.
        dropout: Of hidden units.
        scale: s.
        keep: k (B, 1, 1), such as drop-path's; None for 1.
    """
    mask = None
    if dropout:  # as long rows, as the hidden units lie
        units = x.new_empty((len(layers[0]), x.shape[:-1].numel()), dtype=product_type(x))
        mask = masked(units.t(), dropout, scale).t()
    return ask(_Branches, base, x, layers, act, mask, scale, keep)


class _Branches(Joint):
    """Of several, products are batched; a bottleneck that is narrower than others has hidden units that are 0."""

    @staticmethod
    def alone(base: Tensor | None, x: Tensor, layers: Layers, *others: Any) -> Tensor:
        return operation(_Branch, base, x, *layers, *others)

    @staticmethod
    def kind(base: Tensor | None, x: Tensor, layers: Layers, act: Any, mask: Any, scale: float, keep: Any) -> Hashable:
        given = tuple(one is None for one in (base, *layers, mask, keep))
        return given, x.shape, x.dtype, None if base is None else base.dtype, act, scale

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        bases, xs, layers, (act, *_), masks, (scale, *_), keeps = zip(*calls, strict=True)
        base = None if bases[0] is None else join(bases)
        down, down_bias, up, up_bias = zip(*layers, strict=True)
        each = [
            None if own[0] is None else stacked(own, axis)
            for own, axis in ((down, 0), (down_bias, 0), (up, 1), (up_bias, 0))
        ]
        mask = None if masks[0] is None else stacked(masks)
        keep = None if keeps[0] is None else torch.cat(keeps)
        return operation(_Branch, base, join(xs), *each, act, mask, scale, keep)


class _Branch(torch.autograd.Function):
    """Of one bottleneck, or of M of them, (M, h, D), on images (M B, N, D) behind one another."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor | None,
        x: Tensor,
        down: Tensor,
        down_bias: Tensor | None,
        up: Tensor,
        up_bias: Tensor | None,
        act: Callable[[Tensor], Tensor],
        mask: Tensor | None,
        scale: float,
        keep: Tensor | None,
    ) -> Tensor:
        dtype, onto = product_type(x), x if base is None else base
        down, down_bias, up, up_bias = cast((down, down_bias, up, up_bias), dtype)
        rows = x.reshape(*down.shape[:-2], -1, x.shape[-1]).to(dtype)
        hidden = down @ rows.mT if down_bias is None else added(down_bias[..., None], down, rows.mT)  # (h, B N)
        units, factor = act(hidden), scale if mask is None else mask
        units = units * factor if isinstance(factor, Tensor) or factor != 1 else units
        ctx.save_for_backward(rows, hidden, units, keep, down, up, mask)
        ctx.act, ctx.scale, ctx.skips = act, scale, base is None
        if up_bias is None:
            branch = units.mT @ up.mT
        else:
            shift = up_bias if scale == 1 else scale * up_bias
            branch = added(shift if up.ndim == 2 else shift[:, None], units.mT, up.mT)
        return joined(onto, branch.view(onto.shape), keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, units, keep, down, up, factor = ctx.saved_tensors
        wants, dtype = ctx.needs_input_grad, down.dtype
        grads = branch_gradient(grad, keep, dtype).reshape(rows.shape)
        turned = up.mT @ grads.mT
        if factor is not None or ctx.scale != 1:
            turned = turned * (ctx.scale if factor is None else factor)
        turned = DERIVATIVES[ctx.act](turned, hidden)
        grad_up = as_gradient((units @ grads).mT)
        grad_down_bias = turned.sum(-1, dtype=grad_up.dtype) if wants[3] else None
        grad_up_bias = grads.sum(-2, dtype=grad_up.dtype) if wants[5] else None
        if ctx.scale != 1 and grad_up_bias is not None:
            grad_up_bias = grad_up_bias * ctx.scale
        grad_x = None
        if wants[1] and ctx.skips and keep is None and grad.dtype == dtype:
            grad_x = added(grads, turned.mT, down).view_as(grad)
        elif wants[1]:
            grad_x = (turned.mT @ down).view_as(grad)
            grad_x = grad + grad_x if ctx.skips else grad_x
        grad_base = grad if wants[0] else None
        return grad_base, grad_x, turned @ rows, grad_down_bias, grad_up, grad_up_bias, None, None, None, None


def added(base: Tensor, left: Tensor, right: Tensor, factor: float = 1.0) -> Tensor:
    """base + f left right, of matrices or of as many of each.

    Args:
        base: What is broadcast to (..., I, J).
        left: (..., I, K).
        right: (..., K, J).
        factor: f.
    """
    add = torch.addmm if left.ndim == 2 else torch.baddbmm
    return add(base, left, right, alpha=factor)


def product(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """f left right, of matrices or of as many of each, in one operation.

    Args:
        left: (..., I, K).
        right: (..., K, J).
        factor: f.
    """
    if factor == 1:
        return left @ right
    multiply = torch.addmm if left.ndim == 2 else torch.baddbmm
    return multiply(left.new_empty((1,) * left.ndim), left, right, beta=0, alpha=factor)


def joined(base: Tensor, branch: Tensor, keep: Tensor | None) -> Tensor:
    """base + k branch (B, N, D), in the branch's memory where that can be.

    Args:
        base: (B, N, D).
        branch: (B, N, D), read by nobody else.
        keep: k (B, 1, 1); None for 1.
    """
    if keep is not None:
        return torch.addcmul(base, branch, keep.to(base.dtype))
    return torch.add(base, branch, out=branch if base.dtype == branch.dtype else None)


def branch_gradient(grad: Tensor, keep: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient (B, N, D) of what `joined` was given as the branch, from that of what it gave.

    Args:
        grad: (B, N, D).
        keep: k (B, 1, 1); None for 1.
        dtype: The branch's.
    """
    return grad.to(dtype) if keep is None else torch.mul(grad, keep, out=grad.new_empty(grad.shape, dtype=dtype))


def cast(tensors: tuple[Tensor | None, ...], dtype: torch.dtype) -> list[Any]:
    """The tensors in one type, in two operations for all of them.

    Args:
        tensors: Such as the parameters of a branch.
        dtype: The type.
    """
    given = [t for t in tensors if t is not None]
    if all(t.dtype == dtype for t in given):
        return list(tensors)
    found = iter(_apart(torch.cat([t.reshape(-1) for t in given]).to(dtype), given))
    return [None if t is None else next(found) for t in tensors]


def scaled(tensors: Sequence[Tensor], factor: float) -> list[Tensor]:
    """Small tensors, each multiplied by a number, in two operations for all of them.

    Args:
        tensors: Such as the parameters of a branch, of one type.
        factor: The number.
    """
    return _apart(torch.cat([t.reshape(-1) for t in tensors]).mul_(factor), tensors)


def _apart(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split_with_sizes(vector, [t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]


def masked(units: Tensor, dropout: float, scale: float) -> Tensor:
    """What hidden units (..., h) are multiplied by: dropout's factors, times the scale.

    Args:
        units: The units.
        dropout: The share of them that is dropped.
        scale: The scale.
    """
    return torch.empty_like(units).bernoulli_(1 - dropout).mul_(scale / (1 - dropout))
