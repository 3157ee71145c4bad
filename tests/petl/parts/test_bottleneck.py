from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl.parts.bottleneck import Bottleneck, count_bottleneck


def shaken(width=6, act=F.gelu, dropout=0.0):
    module = Bottleneck(10, width, act, dropout)
    for p in module.parameters():
        torch.nn.init.normal_(p)
    return module.eval()


@pytest.mark.parametrize(("act", "formula"), [(F.gelu, F.gelu), (F.relu, lambda z: z.clamp(min=0))])
def test_it_is_up_of_act_of_down_with_biases(act, formula):
    m, x = shaken(act=act), torch.randn(3, 4, 10)
    expected = formula(x @ m.down.T + m.down_bias) @ m.up.T + m.up_bias
    torch.testing.assert_close(m(x), expected)


def test_down_is_kaiming_and_the_rest_is_zero_at_the_start():
    m = Bottleneck(400, 50, F.gelu, 0.0)
    assert not any(p.any() for p in (m.up, m.up_bias, m.down_bias))
    assert 0.98 / 20 < m.down.abs().max() <= 1 / math.sqrt(400)
    assert m.down.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.03)


def test_dropout_acts_on_the_hidden_units_in_training_only():
    m = shaken(width=2000, act=F.relu, dropout=0.5)
    with torch.no_grad():
        m.down.zero_()
        m.down_bias.fill_(1)
        m.up.fill_(1)
        m.up_bias.fill_(7)
    x = torch.zeros(1, 10)
    assert torch.equal(m(x), torch.full((1, 10), 2007.0))
    kept = (m.train()(x) - 7) / 2
    assert (kept == kept[0, 0]).all() and 900 < kept[0, 0] < 1100


def test_the_output_bias_stays_when_it_is_narrowed():
    m, x = shaken(), torch.randn(3, 10)
    m.narrow(2)
    torch.testing.assert_close(m(x), F.gelu(x @ m.down[:2].T + m.down_bias[:2]) @ m.up[:, :2].T + m.up_bias)
    assert {key: tuple(value.shape) for key, value in m.sliced_state(2).items()} == {
        "down": (2, 10),
        "down_bias": (2,),
        "up": (10, 2),
        "up_bias": (10,),
    }


def test_a_sliced_state_is_a_copy():
    m = shaken()
    m.sliced_state(2)["down"].zero_()
    assert m.down.all()


def test_the_count_is_the_number_of_parameters():
    assert count_bottleneck(10, 6) == sum(p.numel() for p in shaken().parameters()) == 136
