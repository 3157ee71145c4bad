from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply


def design(**options):
    return Design.of(Placement("adaptformer", block, 3, options) for block in (0, 2))


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize(("options", "scale"), [({}, 0.1), ({"scale": 4}, 4.0)])
def test_logits_and_gradients_are_those_of_the_formula(kind, options, scale, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def beside(self, i, x):
            key = f"petl.adaptformer.blocks.{i}.bottleneck"
            if f"{key}.down" not in self.w:
                return 0.0
            hidden = F.relu(x @ self.w[f"{key}.down"].T + self.w[f"{key}.down_bias"])
            return scale * (hidden @ self.w[f"{key}.up"].T + self.w[f"{key}.up_bias"])

    model = tuned(design(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_it_stands_outside_drop_path(tuned):
    model = tuned(design(dropout=0.0), "gap", drop_path_rate=0.9)
    block = model.blocks[2]
    for p in block.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(64, 9, 192)
    assert ((block.train()(x) - x).abs().amax((1, 2)) > 0).all()


def test_dropout_is_on_by_default_in_training_and_can_be_turned_off(make, shake, images):
    for options, same in (({}, False), ({"dropout": 0.0}, True)):
        model = apply(make("gap"), design(**options))
        shake(model)
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model)))
            model.train()
            assert torch.equal(model(images(model)), model(images(model))) is same


def test_no_activation_is_kept_after_the_forward_pass(tuned, images):
    model = tuned(design(), "gap")
    model(images(model))
    assert all(getattr(m, "_carried", None) is None for m in model.petl.modules())
