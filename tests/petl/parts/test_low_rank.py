from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from petlas.petl import Design, Placement, get_method, merge, shape_by_name
from petlas.petl.parts.low_rank import LowRank, by_layer, spread


def test_a_is_kaiming_and_b_is_zero_at_the_start():
    module = LowRank(400, 300, 50, alpha=None, dropout=0.0)
    assert module.up.shape == (300, 50) and not module.up.any()
    assert module.down.shape == (50, 400)
    assert 0.98 / 20 < module.down.abs().max() <= 1 / 20
    assert module.down.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.03)


def test_with_an_alpha_the_scale_follows_the_active_rank():
    module = LowRank(4, 4, 8, alpha=8.0, dropout=0.0)
    assert module.scale == 1.0
    module.narrow(2)
    assert module.scale == 4.0
    assert LowRank(4, 4, 8, alpha=None, dropout=0.0).scale == 1.0


def test_narrowing_with_an_alpha_equals_a_fresh_module():
    large, small = LowRank(6, 5, 8, alpha=4.0, dropout=0.0), LowRank(6, 5, 3, alpha=4.0, dropout=0.0)
    nn.init.normal_(large.up)
    small.load_state_dict(large.sliced_state(3))
    large.narrow(3)
    x = torch.randn(2, 6)
    torch.testing.assert_close(large(x), small(x))
    torch.testing.assert_close(large(x), 4 / 3 * x @ (small.up @ small.down).T)
    torch.testing.assert_close(large(x), x @ large.delta().T)
    torch.testing.assert_close(large(x), large.hidden(x) @ large.scaled_up().T)


def test_dropout_acts_on_the_input_in_training_only():
    module = LowRank(1000, 1, 1, alpha=None, dropout=0.25)
    nn.init.ones_(module.down)
    nn.init.ones_(module.up)
    x = torch.ones(1, 1000)
    assert module.eval()(x).item() == 1000
    kept = module.train()(x).item() * 0.75
    assert kept == pytest.approx(750, abs=70) and kept != 750


def test_spread_puts_each_part_into_rows_and_columns_of_its_own():
    first, second = torch.randn(2, 3), torch.randn(2, 1)
    whole = spread([(4, first), (0, second)], 7)
    expected = torch.zeros(7, 4)
    expected[4:6, :3], expected[:2, 3:] = first, second
    assert torch.equal(whole, expected)


def test_parts_are_found_by_layer_with_the_first_row_of_their_share():
    q, v, fc2 = (LowRank(4, 4, 1, None, 0.0) for _ in range(3))
    block = shape_by_name("vit_tiny_patch16_224").blocks[0]
    found = {layer.place: parts for layer, parts in by_layer(block, nn.ModuleDict({"q": q, "v": v, "fc2": fc2}))}
    assert found == {"attn.qkv": ((0, q), (8, v)), "mlp.fc2": ((0, fc2),)}


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_updates_say_in_plain_values_what_merging_does(method, tuned):
    model = tuned(Design.of([Placement(method, 1, 3, (("targets", "q,v,fc1"), ("alpha", 6.0)))]))
    tuning = model.petl
    placed = get_method(method).placed(tuning.design.placements[0])
    wanted = {}
    for update in get_method(method).updates(model, tuning.get_submodule(method), (placed,)):
        weight = wanted.setdefault(update.layer, model.get_parameter(f"{update.layer}.weight").detach().clone())
        rows = slice(update.start, update.start + len(update.up))
        gain = 1 if update.gain is None else update.gain[:, None]
        weight[rows] = gain * (weight[rows] + update.up @ update.down)
    assert set(wanted) == {"blocks.1.attn.qkv", "blocks.1.mlp.fc1"}
    merge(model)
    for layer, weight in wanted.items():
        torch.testing.assert_close(model.get_parameter(f"{layer}.weight").detach(), weight)
