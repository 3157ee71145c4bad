"""A bottleneck with a convolution among its hidden units, and the sum that it ends in, as one operation.

As in `branch`: few operations, none over the tokens that the formula does not ask for, and hidden units in long rows.
The convolution is a product, too, with the surroundings of each token: of few units they are small, and there is no
other layout to change to.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.petl.parts.branch import added, branch_gradient, cast, joined, masked, product, scaled
from petlas.petl.parts.joint import Join, Joint, ask, stacked
from petlas.petl.parts.products import as_gradient, operation, product_type

QUICK = 1.702
"""QuickGELU z sigmoid(1.702 z) is silu(1.702 z) / 1.702, and its derivative silu'(1.702 z)."""

Layers: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Down (h, D) and its bias (h,), Conv (h, h, 3, 3) and its bias (h,), Up (D, h) and its bias c (D,)."""


@dataclass(frozen=True)
class Place:
    """Where the patches stand in a sequence.

    Args:
        first: The tokens in front of them.
        size: Their rows and columns.
    """

    first: int
    size: tuple[int, int]

    def surroundings(self, units: Tensor, tokens: int, turned: bool = False) -> Tensor:
        """The 3 x 3 neighbours of each token, (..., 9 h, B N), for hidden units (..., h, B N).

        Beyond the edges of the grid are zeros, and around what is no patch as well.

        Args:
            units: The hidden units.
            tokens: N.
            turned: Whether the neighbours come in the opposite order.
        """
        followed = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]
        find = _neighbours if followed else _known_neighbours  # a graph is for any number of images
        index = find(self, units.shape[-1] // tokens, tokens, turned, units.device)
        found: Tensor = F.pad(units, (0, 1)).index_select(-1, index).unflatten(-1, (9, -1)).flatten(-3, -2)
        return found


def _neighbours(place: Place, images: int, tokens: int, turned: bool, device: torch.device) -> Tensor:
    """Where the neighbours of each token of some images stand, (9 B N,); B N where there is none."""
    rows, columns = place.size
    token, step = torch.arange(tokens, device=device), torch.arange(9, device=device)[:, None]
    at = token - place.first
    row, column = at.div(columns, rounding_mode="floor") + step // 3 - 1, at % columns + step % 3 - 1
    patch = (at >= 0) & (at < rows * columns)
    inside = patch & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    near = torch.where(inside, place.first + row * columns + column, torch.where(patch | (step != 4), -1, token))
    near = (near.flip(0) if turned else near)[:, None]
    image = torch.arange(images, device=device)[:, None] * tokens
    return torch.where(near < 0, images * tokens, near + image).flatten().int()


@cache  # for good: CUDA graphs read it wherever it lies
def _known_neighbours(*which: Any) -> Tensor:
    with torch.inference_mode(False):
        return _neighbours(*which)


def add_conv_branch(
    base: Tensor,
    n: Tensor,
    layers: Layers,
    place: Place,
    dropout: float = 0.0,
    scale: float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """base + s k (Up dropout(act(Conv(act(Down n)))) + c), (B, N, D), act being QuickGELU: `ask`ed for.

    Args:
        base: (B, N, D).
        n: (B, N, D).
        layers: Down (h, D) and its bias, Conv (h, h, 3, 3) and its bias, Up (D, h) and its bias c.
        place: Where the convolution runs; what is no patch is convolved alone.
        dropout: Of hidden units.
        scale: s.
        keep: k (B, 1, 1), such as drop-path's; None for 1.
    """
    mask = None
    if dropout:  # drawn token by token, used as the hidden units lie
        units = n.new_empty((n.shape[:-1].numel(), len(layers[0])), dtype=product_type(n))
        mask = masked(units, dropout, scale / QUICK).t()
    return ask(_ConvBranches, base, n, layers, place, mask, scale, keep)


class _ConvBranches(Joint):
    """Of several, products are batched; one that is narrower than others has hidden units that are 0."""

    @staticmethod
    def alone(base: Tensor, n: Tensor, layers: Layers, *others: Any) -> Tensor:
        return operation(_ConvBranch, base, n, *layers, *others)

    @staticmethod
    def kind(base: Tensor, n: Tensor, layers: Layers, place: Place, mask: Any, scale: float, keep: Any) -> Hashable:
        return n.shape, n.dtype, base.dtype, place, mask is None, scale, keep is None

    @staticmethod
    def several(calls: Sequence[tuple[Any, ...]], join: Join) -> Tensor:
        bases, ns, layers, (place, *_), masks, (scale, *_), keeps = zip(*calls, strict=True)
        down, down_bias, conv, conv_bias, up, up_bias = zip(*layers, strict=True)
        width = max(map(len, down))
        each = [
            stacked(down),
            stacked(down_bias),
            torch.stack([F.pad(own, (0, 0, 0, 0, 0, width - len(own), 0, width - len(own))) for own in conv]),
            stacked(conv_bias),
            stacked(up, 1),
            torch.stack(up_bias),
        ]
        mask = None if masks[0] is None else stacked(masks)
        keep = None if keeps[0] is None else torch.cat(keeps)
        return operation(_ConvBranch, join(bases), join(ns), *each, place, mask, scale, keep)


class _ConvBranch(torch.autograd.Function):
    """Of one bottleneck, or of M of them, (M, h, D), on images (M B, N, D) behind one another."""

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
        mask: Tensor | None,
        scale: float,
        keep: Tensor | None,
    ) -> Tensor:
        dtype, tokens = product_type(n), n.shape[1]
        given = cast((down, down_bias, conv_bias, conv, up, up_bias), dtype)
        # Three small tensors are multiplied by 1.702 in place of the hidden units: between both, all is linear.
        quick_down, quick_down_bias, quick_conv_bias = scaled(given[:3], QUICK)
        down, conv, up, up_bias = given[0], *given[3:]
        rows = n.reshape(*down.shape[:-2], -1, n.shape[-1]).to(dtype)
        before = added(quick_down_bias[..., None], quick_down, rows.mT)
        around = place.surroundings(F.silu(before), tokens)
        after = added(quick_conv_bias[..., None], conv.flatten(-3), around)
        hidden, factor = F.silu(after), scale / QUICK if mask is None else 1.0
        hidden = hidden if mask is None else hidden.mul_(mask)
        shift = up_bias if scale == 1 else scale * up_bias
        branch = added(shift if up.ndim == 2 else shift[:, None], hidden.mT, up.mT, factor)
        ctx.save_for_backward(rows, before, around, after, hidden, keep, down, conv, up, mask)
        ctx.place, ctx.scale, ctx.factor, ctx.tokens = place, scale, factor, tokens
        return joined(base, branch.view(base.shape), keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, before, around, after, hidden, keep, down, conv, up, mask = ctx.saved_tensors
        grads = branch_gradient(grad, keep, down.dtype).reshape(rows.shape)
        grad_up = as_gradient(product(hidden, grads, ctx.factor).mT)
        grad_up_bias = grads.sum(-2, dtype=grad_up.dtype)
        grad_up_bias = grad_up_bias if ctx.scale == 1 else grad_up_bias * ctx.scale
        turned = product(up.mT, grads.mT, ctx.factor * QUICK)
        turned = turned if mask is None else turned.mul_(mask)
        grad_after = torch.ops.aten.silu_backward(turned, after)
        grad_conv = product(grad_after, around.mT, 1 / QUICK).view_as(conv)
        turned_conv = conv.transpose(-4, -3).flatten(-3)
        grad_units = turned_conv @ ctx.place.surroundings(grad_after, ctx.tokens, turned=True)
        grad_before = torch.ops.aten.silu_backward(grad_units, before)
        grad_n = (grad_before.mT @ down).view_as(grad) if ctx.needs_input_grad[1] else None
        down_bias, conv_bias = (z.sum(-1, dtype=grad_up.dtype) for z in (grad_before, grad_after))
        gradients = (grad_before @ rows, down_bias, grad_conv, conv_bias, grad_up, grad_up_bias)
        return grad if ctx.needs_input_grad[0] else None, grad_n, *gradients, None, None, None, None
