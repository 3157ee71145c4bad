from __future__ import annotations

import torch
from torch import nn

from petlas.petl.parts.handles import ForwardOverride


def test_a_module_computes_the_other_function_with_its_hooks_around_it_until_it_is_removed():
    layer, x, seen = nn.Linear(2, 2), torch.ones(1, 2), []
    before = layer(x)
    layer.register_forward_hook(lambda _, __, output: seen.append(output))
    override = ForwardOverride(layer, lambda x: 2 * x)
    assert torch.equal(layer(x), 2 * x) and torch.equal(seen[0], 2 * x)
    override.remove()
    assert torch.equal(layer(x), before)
