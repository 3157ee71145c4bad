from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, DesignError, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict

DESIGN = Design.of([Placement("adapter_plus", 0, 3), Placement("adapter_plus", 2, 5)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def behind(self, i, x):
            key = f"petl.adapter_plus.blocks.{i}.bottleneck"
            if f"{key}.down" not in self.w:
                return x
            hidden = F.gelu(x @ self.w[f"{key}.down"].T + self.w[f"{key}.down_bias"])
            output = hidden @ self.w[f"{key}.up"].T + self.w[f"{key}.up_bias"]
            return x + self.w[f"petl.adapter_plus.blocks.{i}.scale"] * output

    model = tuned(DESIGN, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_count_is_the_published_one():
    method, shape = get_method("adapter_plus"), shape_by_name("vit_base_patch16_224")
    counts = [count_params(Design.of(method.baseline(shape, width)), shape) for width in (1, 8, 16)]
    assert counts == [36_876, 165_984, 313_536]


def test_weights_start_near_zero_and_scales_at_one(make):
    state = tuned_state_dict(apply(make("gap"), Design.of([Placement("adapter_plus", 1, 64)])))
    for leaf in ("down", "up"):
        weight = state[f"adapter_plus.blocks.1.bottleneck.{leaf}"]
        assert 0.0195 < weight.abs().max() <= 0.02
        assert weight.std().item() == pytest.approx(0.88 * 0.01, rel=0.03)
        assert not state[f"adapter_plus.blocks.1.bottleneck.{leaf}_bias"].any()
    assert (state["adapter_plus.blocks.1.scale"] == 1).all()


@pytest.mark.parametrize(("options", "share"), [({}, 0.1), ({"drop_path": 0.6}, 0.6), ({"drop_path": 0}, 0.0)])
def test_drop_path_drops_the_adapter_for_whole_images_in_training(options, share, make, shake):
    model = apply(make("gap"), Design.of([Placement("adapter_plus", 0, 3, options)]))
    shake(model)
    block, x = model.blocks[0], torch.randn(1, 3, 192).expand(400, -1, -1)
    scale = model.petl.get_submodule("adapter_plus.blocks.0").scale
    with torch.no_grad():
        always = block(x)
        model.petl.train()
        outputs, gamma = block(x), scale.clone()
        scale.zero_()
        never = block(x)
        scale.copy_(gamma)
    gone = (outputs - never).abs().amax((1, 2)) < 1e-5
    assert gone.float().mean().item() == pytest.approx(share, abs=0.08)
    raised = never + (always - never) / (1 - share)
    torch.testing.assert_close(outputs[~gone], raised[~gone], rtol=1e-4, atol=1e-4)


def test_a_drop_path_of_all_is_refused(make):
    for value in (-0.1, 1, 1.5):
        with pytest.raises(DesignError, match=r"option drop_path of adapter_plus must be in \[0, 1\), got drop_path="):
            apply(make("gap"), Design.of([Placement("adapter_plus", 0, 3, {"drop_path": value})]))
