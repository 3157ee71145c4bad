from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from petlas.petl.backbones.called import CalledLayer


class Attention(nn.Module):
    """Uses the weight of a layer, with a bias of its own, without calling the layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 6, bias=False)
        self.own_bias = nn.Parameter(torch.randn(6))

    def forward(self, x):
        return F.linear(x, weight=self.qkv.weight, bias=self.own_bias)


def test_the_layer_is_called_and_what_is_hooked_on_it_acts():
    attention, x = Attention(), torch.randn(2, 4)
    expected, names = attention(x), list(attention.state_dict())
    attention.qkv.register_forward_hook(lambda layer, args, output: 2 * output)
    assert torch.equal(attention(x), expected)
    handle = CalledLayer(attention, attention.qkv)
    assert torch.equal(attention(x), 2 * expected)
    attention(x).sum().backward()
    assert attention.qkv.weight.grad is not None and attention.own_bias.grad is not None
    assert list(attention.state_dict()) == names
    handle.remove()
    assert torch.equal(attention(x), expected)


def test_a_hook_that_fails_leaves_the_weight_where_it_was():
    attention = Attention()
    CalledLayer(attention, attention.qkv)
    attention.qkv.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attention(torch.randn(2, 4))
    assert isinstance(attention.qkv.weight, nn.Parameter) and attention.qkv.bias is None


@pytest.mark.parametrize("positional", [True, False])
def test_a_compiled_model_calls_it_too(positional):
    attention, x = Attention(), torch.randn(2, 4)
    if positional:
        attention.forward = lambda x: F.linear(x, attention.qkv.weight, attention.own_bias)
    expected = 2 * attention(x)
    CalledLayer(attention, attention.qkv)
    attention.qkv.register_forward_hook(lambda layer, args, output: 2 * output)
    assert torch.equal(attention(x), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(attention, backend="eager")(x), expected)
