from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict

DESIGN = Design.of([Placement("pfeiffer", 0, 3), Placement("pfeiffer", 2, 5)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def behind(self, i, x):
            key = f"petl.pfeiffer.blocks.{i}"
            if f"{key}.norm.weight" not in self.w:
                return x
            centred = x - x.mean(-1, keepdim=True)
            normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            normed = normed * self.w[f"{key}.norm.weight"] + self.w[f"{key}.norm.bias"]
            key = f"{key}.bottleneck"
            hidden = F.gelu(normed @ self.w[f"{key}.down"].T + self.w[f"{key}.down_bias"])
            return x + hidden @ self.w[f"{key}.up"].T + self.w[f"{key}.up_bias"]

    model = tuned(DESIGN, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_count_has_a_norm_beside_the_bottleneck():
    method, shape = get_method("pfeiffer"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 8)), shape) == 156_768 + 12 * 2 * 768 == 175_200


def test_weights_start_normal_and_the_norm_as_the_identity(make):
    state = tuned_state_dict(apply(make("gap"), Design.of([Placement("pfeiffer", 1, 64)])))
    for leaf in ("down", "up"):
        weight = state[f"pfeiffer.blocks.1.bottleneck.{leaf}"]
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert weight.abs().max() > 0.06
        assert not state[f"pfeiffer.blocks.1.bottleneck.{leaf}_bias"].any()
    assert (state["pfeiffer.blocks.1.norm.weight"] == 1).all() and not state["pfeiffer.blocks.1.norm.bias"].any()


def test_dropout_is_off_by_default_and_can_be_set(make, shake, images):
    for options, same in (({}, True), ({"dropout": 0.5}, False)):
        model = apply(make("gap"), Design.of([Placement("pfeiffer", 0, 8, options)]))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same
