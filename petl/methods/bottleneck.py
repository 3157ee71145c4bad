"""The bottleneck that the adapter family shares."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.methods.base import Elastic


class Bottleneck(Elastic):
    """x (B, N, D) to Up(dropout(act(Down x))) (B, N, D), with biases; Down (h, D) Kaiming, Up (D, h) zero.

    Parameters: 2 D h + h + D.
    """

    axes = {"down": 0, "down_bias": 0, "up": 1}

    def __init__(self, channels: int, width: int, act: Callable[[Tensor], Tensor], dropout: float) -> None:
        super().__init__(width)
        self.act = act
        self.dropout = dropout
        self.down = nn.Parameter(torch.empty(width, channels))
        self.down_bias = nn.Parameter(torch.zeros(width))
        self.up = nn.Parameter(torch.zeros(channels, width))
        self.up_bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck's output, zero at the start."""
        hidden = self.act(F.linear(x, self.part("down"), self.part("down_bias")))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return F.linear(hidden, self.part("up"), self.up_bias)


def count_bottleneck(channels: int, width: int) -> int:
    """Parameters of a `Bottleneck`."""
    return 2 * channels * width + width + channels
