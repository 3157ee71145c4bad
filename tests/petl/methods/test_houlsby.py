from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict

DESIGN = Design.of([Placement("houlsby", 0, 3), Placement("houlsby", 2, 5)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def adapt(self, key, z):
            if f"{key}.down" not in self.w:
                return z
            hidden = F.gelu(z @ self.w[f"{key}.down"].T + self.w[f"{key}.down_bias"])
            return z + hidden @ self.w[f"{key}.up"].T + self.w[f"{key}.up_bias"]

        def attn_branch(self, i, o):
            return self.adapt(f"petl.houlsby.blocks.{i}.attn", o)

        def branch(self, i, m):
            return self.adapt(f"petl.houlsby.blocks.{i}.mlp", m)

    model = tuned(DESIGN, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_count_is_the_published_one():
    method, shape = get_method("houlsby"), shape_by_name("vit_base_patch16_224")
    assert [count_params(Design.of(method.baseline(shape, width)), shape) for width in (8, 64)] == [313_536, 2_379_264]


def test_weights_start_normal_truncated_at_two_deviations_of_a_hundredth(make):
    state = tuned_state_dict(apply(make("gap"), Design.of([Placement("houlsby", 1, 64)])))
    for site in ("attn", "mlp"):
        for leaf in ("down", "up"):
            weight = state[f"houlsby.blocks.1.{site}.{leaf}"]
            assert 0.0195 < weight.abs().max() <= 0.02
            assert weight.std().item() == pytest.approx(0.88 * 0.01, rel=0.03)  # of a normal cut at two deviations
            assert not state[f"houlsby.blocks.1.{site}.{leaf}_bias"].any()
    assert not torch.equal(state["houlsby.blocks.1.attn.down"], state["houlsby.blocks.1.mlp.down"])


@pytest.mark.parametrize("silent", ["attn", "mlp"])
def test_it_stands_behind_drop_path(silent, tuned):
    model = tuned(DESIGN, "gap", drop_path_rate=0.9)
    block = model.blocks[2]
    for p in [*block.parameters(), *model.petl.get_submodule(f"houlsby.blocks.2.{silent}").parameters()]:
        torch.nn.init.zeros_(p)
    x = torch.randn(64, 9, 192)
    assert ((block.train()(x) - x).abs().amax((1, 2)) > 0).all()


def test_dropout_is_off_by_default_and_can_be_set(make, shake, images):
    for options, same in (({}, True), ({"dropout": 0.5}, False)):
        model = apply(make("gap"), Design.of([Placement("houlsby", 0, 8, options)]))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same
