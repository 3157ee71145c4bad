from __future__ import annotations

import pytest
import torch

from petlas.petl import DesignError, get_family, shape_of


def test_the_bias_is_that_of_q_k_and_v_in_a_row_and_goes_back_to_them(small):
    model, family = small("swinv2"), get_family("swinv2")
    layer = next(layer for layer in shape_of(model).layers if layer.shadowed)
    attention = model.get_submodule(layer.path.removesuffix(".qkv"))
    bias = family.bias(model, layer)
    assert torch.equal(bias, torch.cat((attention.q_bias, torch.zeros(32), attention.v_bias)))
    changed = bias.clone()
    changed[:32] += 1
    changed[64:] += 2
    family.set_bias(model, layer, changed)
    assert torch.equal(family.bias(model, layer), changed)


def test_keys_get_no_bias(small):
    model, family = small("swinv2"), get_family("swinv2")
    layer = next(layer for layer in shape_of(model).layers if layer.shadowed)
    with pytest.raises(DesignError, match=r"keys have no bias in this backbone.*unmerged"):
        family.set_bias(model, layer, torch.ones(96))
