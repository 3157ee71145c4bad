"""Products between many channels and few hidden units, laid out so that a CPU is quick, gradients included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reduce(x: Tensor, down: Tensor, bias: Tensor | None = None) -> Tensor:
    """x down^T + bias, (..., r), for x (..., I) and down (r, I): what `F.linear` computes.

    The result is laid out unit by unit, because of the backward pass: its gradient is then formed by the product behind
    it as up^T g^T, with long rows, and not as g up, whose rows of r units take a CPU two to four times as long.

    Args:
        x: (..., I).
        down: (r, I).
        bias: (r,).
    """
    turned = _rows(x).t()
    hidden = down @ turned if bias is None else torch.addmm(bias[:, None], down, turned)
    units: Tensor = hidden.t().unflatten(0, x.shape[:-1])
    return units


def widen(hidden: Tensor, up: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden up^T + bias, (..., O), for hidden (..., r) and up (O, r): what `F.linear` computes.

    The weight is turned round first, a small copy, because of the backward pass: the weight's gradient is then
    hidden^T g, with long rows, and not g^T hidden, whose rows of r < 16 units take a CPU ten times as long.

    Args:
        hidden: (..., r).
        up: (O, r).
        bias: (O,).
    """
    turned = up.t().contiguous()
    return hidden @ turned if bias is None else torch.addmm(bias, _rows(hidden), turned).unflatten(0, hidden.shape[:-1])


def add_product(output: Tensor, hidden: Tensor, up: Tensor) -> Tensor:
    """output + hidden up^T in one pass over the output, for hidden (..., r) and up (O, r).

    The output (B, N, O), or (B, N, c O) for hidden units (B, N, c, r), is large and up is small: rows of zeros in up
    cost less than cutting the output into the parts that change and putting them together again. Where no gradients
    are recorded the output, a linear layer's and nobody else's, is changed in place: room for another one takes a CPU
    longer than the product.

    Args:
        output: (B, N, O) or (B, N, c O).
        hidden: (B, N, r) or (B, N, c, r).
        up: (O, r).
    """
    turned = up.t().contiguous()  # as in `widen`
    rows = output.reshape(-1, len(up))
    if torch.is_grad_enabled():
        return torch.addmm(rows, _rows(hidden), turned).view_as(output)
    # In place, autocast does not cast.
    return rows.addmm_(_rows(hidden).to(rows.dtype), turned.to(rows.dtype)).view_as(output)


def _rows(hidden: Tensor) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1])


def product_type(x: Tensor) -> torch.dtype:
    """The type in which a product of x is computed: autocast's, where that is on.

    Args:
        x: What is multiplied.
    """
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def as_gradient(gradient: Tensor) -> Tensor:
    """A weight's gradient as a parameter takes it, row by row and in float32 where it was half as long, in one copy.

    Args:
        gradient: The gradient.
    """
    dtype = torch.float64 if gradient.dtype is torch.float64 else torch.float32
    if gradient.dtype is dtype:
        return gradient.contiguous()
    return gradient.to(dtype, memory_format=torch.contiguous_format)


def operation(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """What an operation with a backward pass of its own computes, with the same digits where no gradient is recorded.

    There its `forward` is called by itself, so that it can be traced.

    Args:
        function: The operation.
        args: Of its `forward`.
    """
    result: Tensor = function.apply(*args) if torch.is_grad_enabled() else function.forward(_NoContext(), *args)
    return result


class _NoContext:
    """Takes the place of an operation's context where there is no backward pass."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Nothing."""
