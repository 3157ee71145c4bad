"""The bottlenecks that the adapter family shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.parts.branch import add_branch
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.joint import asks
from petlas.petl.parts.products import reduce, widen

Init: TypeAlias = Callable[[Tensor, Tensor], object]
"""Fills the weights Down (h, D) and Up (D, h) of a bottleneck."""


def kaiming_zero(down: Tensor, up: Tensor) -> None:
    """Down uniform in +-1 / sqrt(D), Up zero.

    Args:
        down: The weight Down (h, D).
        up: The weight Up (D, h).
    """
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    nn.init.zeros_(up)


def xavier_zero(down: Tensor, up: Tensor) -> None:
    """Down uniform in +-sqrt(6 / (D + h)), Up zero.

    Args:
        down: The weight Down (h, D).
        up: The weight Up (D, h).
    """
    nn.init.xavier_uniform_(down)
    nn.init.zeros_(up)


def near_zero(down: Tensor, up: Tensor, std: float, cut: float) -> None:
    """Both normal with that standard deviation, truncated at `cut` deviations.

    Args:
        down: The weight Down (h, D).
        up: The weight Up (D, h).
        std: The standard deviation.
        cut: In standard deviations.
    """
    for weight in (down, up):
        nn.init.trunc_normal_(weight, std=std, a=-cut * std, b=cut * std)


class Bottleneck(Elastic):
    """x (B, N, D) to Up(dropout(act(Down x))) (B, N, D), with biases; Down (h, D), Up (D, h).

    Parameters: 2 D h, and h + D for the biases, which start at 0.
    """

    axes = {"down": 0, "down_bias": 0, "up": 1}
    summed = "up"

    def __init__(
        self,
        channels: int,
        width: int,
        act: Callable[[Tensor], Tensor],
        dropout: float,
        init: Init = kaiming_zero,
        bias: bool = True,
    ) -> None:
        super().__init__(width)
        self.act = act
        self.dropout = dropout
        self.down = nn.Parameter(torch.empty(width, channels))
        self.down_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.up = nn.Parameter(torch.empty(channels, width))
        self.up_bias = nn.Parameter(torch.zeros(channels)) if bias else None
        init(self.down, self.up)

    def reduce(self, x: Tensor) -> Tensor:
        """Down x (B, N, h), before the activation."""
        return reduce(x, self.part("down"), None if self.down_bias is None else self.part("down_bias"))

    def hidden(self, x: Tensor) -> Tensor:
        """What Up reads, (B, N, h)."""
        return self.act(self.reduce(x))

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck's output."""
        hidden = F.dropout(self.hidden(x), self.dropout, self.training)
        return widen(hidden, self.part("up"), self.up_bias)

    def added_to(self, base: Tensor | None, x: Tensor, scale: float = 1.0) -> Tensor:
        """base + s A(x), (B, N, D), for this bottleneck A.

        Args:
            base: (B, N, D); None for x.
            x: (B, N, D).
            scale: s.
        """
        return add_branch(base, x, self.layers(), self.act, self.dropout if self.training else 0.0, scale)

    def layers(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Down and its bias, Up and its bias, as far as they are active."""
        down_bias = None if self.down_bias is None else self.part("down_bias")
        return self.part("down"), down_bias, self.part("up"), self.up_bias


def count_bottleneck(channels: int, width: int, bias: bool = True) -> int:
    """Parameters of a `Bottleneck`.

    Args:
        channels: D.
        width: h.
        bias: Whether both layers have biases.
    """
    return 2 * channels * width + (width + channels if bias else 0)


class LinearBottleneck(Elastic):
    """x (B, N, I) to Up(dropout(Down x)) (B, N, O), with biases; Down (h, I) Xavier, Up zero.

    Up is a grouped 1 x 1 convolution: of g equal groups of outputs, group i reads the hidden units j with
    j mod g = i, so that any number of units can be grouped, and narrowed. Up is stored as (O / g, h), one column for
    each hidden unit. Parameters: h I + h + O h / g + O.
    """

    axes = {"down": 0, "down_bias": 0, "up": 1}
    summed = "up"

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float, groups: int = 1) -> None:
        super().__init__(width)
        self.dropout = dropout
        self.groups = groups
        self.down = nn.Parameter(torch.empty(width, inputs))
        self.down_bias = nn.Parameter(torch.zeros(width))
        self.up = nn.Parameter(torch.empty(outputs // groups, width))
        self.up_bias = nn.Parameter(torch.zeros(outputs))
        xavier_zero(self.down, self.up)

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck's output, zero at the start."""
        hidden = F.dropout(reduce(x, self.part("down"), self.part("down_bias")), self.dropout, self.training)
        return widen(hidden, self._dense_up(), self.up_bias)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (O, I) and bias (O) of the linear layer that it is."""
        up = self._dense_up()
        return up @ self.part("down"), up @ self.part("down_bias") + self.up_bias

    def _dense_up(self) -> Tensor:
        """Up as (O, h), zero where an output does not read a hidden unit."""
        up = self.part("up")
        if self.groups == 1:
            return up
        group = torch.arange(self.groups, device=up.device)
        reads = torch.arange(self.active, device=up.device) % self.groups == group[:, None]
        return (up * reads[:, None]).flatten(0, 1)


def count_linear_bottleneck(inputs: int, outputs: int, width: int, groups: int = 1) -> int:
    """Parameters of a `LinearBottleneck`.

    Args:
        inputs: I.
        outputs: O.
        width: h.
        groups: Of Up.
    """
    return width * inputs + width + outputs // groups * width + outputs


def add_to(adapter: nn.Module, z: Tensor) -> Tensor:
    """An adapter with a skip connection on what flows at a site, z + A(z).

    Args:
        adapter: A, from (B, N, D) to (B, N, D).
        z: What flows there (B, N, D).
    """
    added: Tensor = z + adapter(z)
    return added


@asks
def add_bottleneck(adapter: nn.Module, z: Tensor) -> Tensor:
    """`add_to` for a `Bottleneck`.

    Args:
        adapter: A.
        z: What flows there (B, N, D).
    """
    assert isinstance(adapter, Bottleneck)
    return adapter.added_to(None, z)
