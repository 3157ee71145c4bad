from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, DesignError, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict

DESIGN = Design.of([Placement("lorand", 0, 3), Placement("lorand", 2, 2, {"beta": 5})])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def adapt(self, key, z):
            if f"{key}.kernel" not in self.w:
                return z
            w = {leaf: self.w[f"{key}.{leaf}"] for leaf in ("kernel", "down_left", "down_right", "up_left", "up_right")}
            down, up = (
                sum(w[f"{side}_left"][i] @ w["kernel"][i] @ w[f"{side}_right"][i] for i in range(len(w["kernel"])))
                for side in ("down", "up")
            )
            return z + F.gelu(z @ down + self.w[f"{key}.down_bias"]) @ up + self.w[f"{key}.up_bias"]

        def attn_branch(self, i, o):
            return self.adapt(f"petl.lorand.blocks.{i}.attn", o)

        def branch(self, i, m):
            return self.adapt(f"petl.lorand.blocks.{i}.mlp", m)

    model = tuned(DESIGN, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_count_is_that_of_the_reference():
    method, shape = get_method("lorand"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 2)), shape) == 915_456
    one = Design.of([Placement("lorand", 0, 4, {"beta": 16})])
    assert count_params(one, shape) == 2 * (2 * 4 * 16 * 1152 + 4 * 16 * 16 + 1152)


def test_every_factor_starts_uniform_by_its_columns(make):
    state = tuned_state_dict(apply(make("gap"), Design.of([Placement("lorand", 1, 4)])))
    columns = {"kernel": 8, "down_left": 8, "down_right": 96, "up_left": 8, "up_right": 192}
    inputs = {"down_bias": 192, "up_bias": 96}
    for site in ("attn", "mlp"):
        for leaf, fan_in in (columns | inputs).items():
            value, bound = state[f"lorand.blocks.1.{site}.{leaf}"], 1 / math.sqrt(fan_in)
            assert 0.95 * bound < value.abs().max() <= bound
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_it_stands_inside_drop_path(tuned):
    model = tuned(DESIGN, "gap", drop_path_rate=0.9)
    block = model.blocks[2]
    for p in block.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(64, 9, 192)
    changed = (block.train()(x) - x).abs().amax((1, 2)) > 0
    assert 0 < changed.sum() < 32


@pytest.mark.parametrize("beta", [0, -1, 2.5])
def test_an_inner_side_that_is_no_whole_number_is_refused(beta, make):
    with pytest.raises(DesignError, match=f"beta of lorand must be a whole number of at least 1, got beta={beta}"):
        apply(make("gap"), Design.of([Placement("lorand", 0, 2, {"beta": beta})]))
