from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply

DESIGN = Design.of([Placement("adapter", 0, 3), Placement("adapter", 2, 5)])


def bottleneck(w, key, x, act):
    return act(x @ w[f"{key}.down"].T + w[f"{key}.down_bias"]) @ w[f"{key}.up"].T + w[f"{key}.up_bias"]


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def branch(self, i, m):
            key = f"petl.adapter.blocks.{i}"
            return m + bottleneck(self.w, key, m, F.gelu) if f"{key}.down" in self.w else m

    model = tuned(DESIGN, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_it_stands_inside_drop_path(tuned, images):
    model = tuned(DESIGN, "gap", drop_path_rate=0.9)
    block = model.blocks[2]
    for p in block.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(64, 9, 192)
    changed = (block.train()(x) - x).abs().amax((1, 2)) > 0
    assert 0 < changed.sum() < 32


def test_dropout_is_off_by_default_and_can_be_set(make, shake, images):
    for options, same in (({}, True), ({"dropout": 0.5}, False)):
        model = apply(make("gap"), Design.of([Placement("adapter", 0, 8, options)]))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same
