from __future__ import annotations

import copy
import math

import pytest
import torch

from petlas.petl import (
    Design,
    DesignError,
    Placement,
    apply,
    count_params,
    merge,
    shape_by_name,
    tuned_state_dict,
)


def kadaptation(terms=3, **options):
    return Design.of([Placement("kadaptation", None, terms, options)])


def delta(state, block, name, scale):
    """s sum_i (a_i b_i^T) o (u_i v_i^T), transposed, as a weight is (outputs, inputs)."""
    slow, fast = f"kadaptation.slow.{name}", f"kadaptation.blocks.{block}.{name}"
    tensors = (state[f"{key}.{side}"] for key in (slow, fast) for side in ("inputs", "outputs"))
    terms = [torch.kron(torch.outer(a, b), torch.outer(u, v)) for a, b, u, v in zip(*tensors, strict=True)]
    return scale * sum(terms).T


def updates(state, block, scale):
    """The update of the fused weight and bias of a block."""
    q, v = (delta(state, block, name, scale) for name in "qv")
    bias = state[f"kadaptation.blocks.{block}.bias"]
    return torch.cat([q, torch.zeros_like(q), v]), torch.cat([bias, torch.zeros_like(bias), bias])


@pytest.mark.parametrize(
    ("kind", "options", "scale"), [("dinov2", {"scale": 3}, 3.0), ("gap", {"slow": 8, "scale": 0.5}, 0.5)]
)
def test_logits_gradients_and_merged_weights_are_those_of_the_formula(
    kind, options, scale, tuned, by_hand, same_as_by_hand
):
    class Formulas(by_hand):
        def after(self, path, z, x):
            if not path.endswith("qkv"):
                return z
            state = {key.removeprefix("petl."): p for key, p in self.w.items()}
            weight, bias = updates(state, path.split(".")[1], scale)
            return z + x @ weight.T + bias

    model = tuned(kadaptation(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))
    state = tuned_state_dict(copy.deepcopy(model))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in merge(model).state_dict().items():
        change = 0
        if ".qkv." in key:
            change = updates(state, key.split(".")[1], scale)[key.endswith("bias")]
        torch.testing.assert_close(value, before[key] + change, rtol=1e-12, atol=1e-12, msg=key)


def test_a_backbone_without_a_bias_of_q_k_and_v_gets_one_when_merged(tuned, images):
    model = tuned(kadaptation(), "gap", double=True, qkv_bias=False)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
    assert model.blocks[0].attn.qkv.bias is not None


@pytest.mark.parametrize(
    ("terms", "options", "count"),
    [(32, {}, 50_176), (16, {"slow": 16}, 12 * (4 * 768 + 768) + 4 * 16 * 16), (8, {}, 12 * (768 + 768) + 4 * 8 * 32)],
)
def test_the_count_on_vit_base_is_the_published_one(terms, options, count):
    assert count_params(kadaptation(terms, **options), shape_by_name("vit_base_patch16_224")) == count


def test_slow_factors_are_shared_small_and_uniform_and_only_v_and_the_bias_are_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), kadaptation(32)))
    slow = torch.cat([state[f"kadaptation.slow.{name}.{side}"] for name in "qv" for side in ("inputs", "outputs")])
    assert 0.0099 < slow.abs().max() <= 0.01
    assert slow.std().item() == pytest.approx(0.01 / math.sqrt(3), rel=0.05)
    bound = math.sqrt(2 * 6 / (192 / 32 + 1))
    for block in range(3):
        for name in "qv":
            inputs, outputs = (state[f"kadaptation.blocks.{block}.{name}.{side}"] for side in ("inputs", "outputs"))
            assert inputs.shape == outputs.shape == (32, 6)
            assert 0.95 * bound < inputs.abs().max() <= bound
            assert not outputs.any()
        assert not state[f"kadaptation.blocks.{block}.bias"].any()


def test_dropout_acts_on_the_entries_of_the_update_in_training_only(tuned):
    model = tuned(kadaptation(scale=1), "gap")
    state, layer = tuned_state_dict(model), model.blocks[1].attn.qkv
    weight, bias = updates(state, 1, 1.0)
    for p in (layer.weight, layer.bias):
        torch.nn.init.zeros_(p)
    x = torch.eye(192)[None]  # so that the output shows the weight
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0].T, weight + bias[:, None])
        dropped = model.train().blocks[1].attn.qkv(x)[0].T - bias[:, None]
        kept = dropped[:192].abs() > 1e-6
        assert kept.float().mean().item() == pytest.approx(0.5, abs=0.02)
        torch.testing.assert_close(dropped[:192][kept], 2 * weight[:192][kept], rtol=1e-4, atol=1e-5)


def test_without_dropout_training_and_evaluation_agree(tuned, images):
    model = tuned(kadaptation(scale=1, dropout=0), "gap")
    with torch.no_grad():
        assert torch.equal(model(images(model)), model.train()(images(model)))


@pytest.mark.parametrize("slow", [5, 0, -2, 2.5])
def test_slow_factors_that_do_not_divide_the_channels_are_refused(slow, make):
    rule = rf"slow of kadaptation must be a whole number that divides the 192 channels of vit_.*, got slow={slow}"
    with pytest.raises(DesignError, match=rule):
        apply(make("gap"), kadaptation(slow=slow))
