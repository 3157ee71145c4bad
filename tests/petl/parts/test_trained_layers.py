from __future__ import annotations

import torch
from timm.layers.norm import LayerNorm
from torch import nn

from petlas.petl.parts.handles import ForwardOverride
from petlas.petl.parts.joint import is_asking
from petlas.petl.parts.trained_layers import trained_layer


def test_layers_of_known_types_compute_what_they_compute() -> None:
    """Of exactly these types: what inherits from one may compute anything."""
    x = torch.randn(2, 3, 6)
    for layer in (nn.Linear(6, 4), nn.Linear(6, 4, bias=False), nn.LayerNorm(6), LayerNorm(6, eps=0.1)):
        assert is_asking(trained_layer(layer)) and torch.equal(trained_layer(layer)(x), layer(x))

    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    own = Own(6, 4)
    assert trained_layer(own) is own
    layer = nn.Linear(6, 4)
    ForwardOverride(layer, torch.neg)
    assert trained_layer(layer) is layer
