"""A bottleneck with a convolution among its hidden units, and the sum that it ends in, as one operation.

As in `branch`: few operations, and none over the tokens that the formula does not ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.petl.parts.branch import as_gradient, branch_gradient, cast, joined, masked
from petlas.petl.parts.products import operation, product_type

QUICK = 1.702
"""QuickGELU z sigmoid(1.702 z) is silu(1.702 z) / 1.702, and its derivative silu'(1.702 z)."""


@dataclass(frozen=True)
class Place:
    """Where the patches stand in a sequence.

    Args:
        first: The tokens in front of them.
        size: Their rows and columns.
    """

    first: int
    size: tuple[int, int]

    def maps(self, z: Tensor) -> Tensor:
        """The patches of z (B, N, h) as maps (B, h, rows, columns), in z's memory."""
        rows, columns = self.size
        maps: Tensor = z[:, self.first : self.first + rows * columns].unflatten(1, self.size).permute(0, 3, 1, 2)
        return maps

    def others(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What stands in front of the patches in each of the tensors (B, N, h), and what stands behind, if anything."""
        rows, columns = self.size
        for part in (slice(0, self.first), slice(self.first + rows * columns, None)):
            if tensors[0][:, part].shape[1]:
                yield tuple(z[:, part] for z in tensors)


def add_conv_branch(
    base: Tensor,
    n: Tensor,
    layers: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    place: Place,
    dropout: float = 0.0,
    scale: float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """base + s k (Up dropout(act(Conv(act(Down n)))) + c), (B, N, D), act being QuickGELU.

    Args:
        base: (B, N, D).
        n: (B, N, D).
        layers: Down (h, D) and its bias, Conv (h, h, 3, 3) and its bias, Up (D, h) and its bias c.
        place: Where the convolution runs; what is no patch is convolved alone.
        dropout: Of hidden units.
        scale: s.
        keep: k (B, 1, 1), such as drop-path's; None for 1.
    """
    return operation(_ConvBranch, base, n, *layers, place, dropout, scale, keep)


class _ConvBranch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        n: Tensor,
        down: Tensor,
        down_bias: Tensor,
        conv: Tensor,
        conv_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        place: Place,
        dropout: float,
        scale: float,
        keep: Tensor | None,
    ) -> Tensor:
        dtype = product_type(n)
        down, down_bias, conv, conv_bias, up, up_bias = cast((down, down_bias, conv, conv_bias, up, up_bias), dtype)
        rows = n.reshape(-1, n.shape[-1]).to(dtype)
        before = torch.addmm(down_bias, rows, down.t()).mul_(QUICK)  # 1.702 times what QuickGELU reads
        units = F.silu(before).div_(QUICK).view(*n.shape[:2], -1)
        after = torch.empty_like(units)
        place.maps(after).copy_(F.conv2d(place.maps(units), conv, conv_bias, padding=1))
        for z, result in place.others(units, after):
            result.copy_(F.linear(z, conv[:, :, 1, 1], conv_bias))
        after.mul_(QUICK)
        factor = scale / QUICK if dropout == 0 else masked(after, dropout, scale / QUICK)
        hidden = F.silu(after).mul_(factor).flatten(0, 1)
        branch = torch.addmm(up_bias if scale == 1 else scale * up_bias, hidden, up.t()).view(base.shape)
        tensors = factor if isinstance(factor, Tensor) else None
        ctx.save_for_backward(rows, before, units, after, hidden, keep, down, conv, up, tensors)
        ctx.place, ctx.scale = place, scale
        return joined(base, branch, keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, before, units, after, hidden, keep, down, conv, up, factor = ctx.saved_tensors
        dtype, place = down.dtype, ctx.place
        grads = branch_gradient(grad, keep, dtype).reshape(rows.shape)
        grad_up = as_gradient((hidden.t() @ grads).t())
        grad_up_bias = grads.sum(0, dtype=grad_up.dtype)
        grad_up_bias = grad_up_bias if ctx.scale == 1 else grad_up_bias * ctx.scale
        turned = (up.t() @ grads.t()).t().reshape(after.shape)  # long rows, then the units' own order
        turned = turned.mul_(ctx.scale if factor is None else factor * QUICK)
        grad_after = torch.ops.aten.silu_backward(turned, after)
        grad_units, grad_conv, grad_conv_bias = _convolved_back(grad_after, units, conv, place)
        grad_before = torch.ops.aten.silu_backward(grad_units.view(before.shape), before)
        grad_n = (grad_before @ down).view_as(grad) if ctx.needs_input_grad[1] else None
        grad_down, grad_down_bias = grad_before.t() @ rows, grad_before.sum(0, dtype=grad_up.dtype)
        gradients = (grad_down, grad_down_bias, grad_conv, grad_conv_bias, grad_up, grad_up_bias)
        return grad if ctx.needs_input_grad[0] else None, grad_n, *gradients, None, None, None, None


def _convolved_back(grad: Tensor, z: Tensor, conv: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the convolution's input (B, N, h), weight and bias."""
    ones, none = [1, 1], [0, 0]
    grad_maps, grad_conv, grad_bias = torch.ops.aten.convolution_backward(
        place.maps(grad), place.maps(z), conv, [len(conv)], ones, ones, ones, False, none, 1, [True, True, True]
    )
    grad_z = torch.empty_like(grad)
    place.maps(grad_z).copy_(grad_maps)
    for part, given, result in place.others(grad, z, grad_z):
        rows = part.reshape(-1, part.shape[-1])
        result.copy_((rows @ conv[:, :, 1, 1]).view_as(result))
        grad_conv[:, :, 1, 1].addmm_(rows.t(), given.reshape(rows.shape))
        grad_bias.add_(rows.sum(0))
    return grad_z, grad_conv, grad_bias
