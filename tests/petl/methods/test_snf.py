from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, DesignError, Placement, apply, tuned_state_dict
from petlas.petl.methods.snf import Flow


def snf(**options):
    return Design.of(Placement("snf", block, None, options) for block in (0, 2))


def flow(weights, x, flows):
    z = weights["shift"] + weights["log_scale"].exp() * x
    for k in range(flows):
        z = z + torch.tanh(z @ weights["w"][k] + weights["b"][k]).unsqueeze(-1) * weights["u"][k]
    return z


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize("flows", [0, 1, 3])
def test_logits_and_gradients_are_those_of_the_formula(kind, flows, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        """The shortcut x becomes F(x): here as what F changes, in the places that see the stream."""

        def changed(self, i, name, x):
            key = f"petl.snf.blocks.{i}.{name}."
            weights = {path.removeprefix(key): p for path, p in self.w.items() if path.startswith(key)}
            return flow(weights, x, flows) - x if weights else 0.0

        def block(self, i, x):
            self.entering = x
            return super().block(i, x)

        def between(self, i, x):
            return x + self.changed(i, "attn", self.entering)

        def beside(self, i, x):
            return self.changed(i, "mlp", x)

    model = tuned(snf(**{"flows": flows} if flows else {}), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_shortcut_stands_outside_drop_path(tuned):
    model = tuned(snf(), "gap", drop_path_rate=0.9)
    block = model.blocks[2]
    for p in block.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(64, 9, 192)
    weights = [dict(model.petl.get_submodule(f"snf.blocks.2.{name}").named_parameters()) for name in ("attn", "mlp")]
    torch.testing.assert_close(block.train()(x), flow(weights[1], flow(weights[0], x, 0), 0))


def test_the_affine_map_starts_as_the_identity_and_planar_flows_within_a_hundredth(make):
    state = tuned_state_dict(apply(make("gap"), snf(flows=40)))
    for name in ("shift", "log_scale"):
        assert not state[f"snf.blocks.0.attn.{name}"].any()
    for name in ("w", "u"):
        values = state[f"snf.blocks.0.mlp.{name}"]
        assert 0.0098 < values.abs().max() <= 0.01
        assert values.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.03)
    assert 0 < state["snf.blocks.0.attn.b"].abs().max() <= 0.01


def test_planar_flows_start_near_the_identity(make, images):
    model = make("gap")
    expected = model(images(model))
    apply(model, snf(flows=2))
    assert 0 < (model(images(model)) - expected).abs().max() < 0.01 * expected.abs().max()


def test_no_activation_is_kept_after_the_forward_pass(tuned, images):
    model = tuned(snf(), "gap")
    model(images(model))
    flows = [m for m in model.petl.modules() if isinstance(m, Flow)]
    assert len(flows) == 4
    assert all(flow._carried is None for flow in flows)


@pytest.mark.parametrize("flows", [-1, 1.5])
def test_a_number_of_flows_that_counts_none_is_refused(flows, make):
    with pytest.raises(DesignError, match=f"option flows of snf must be a whole number of at least 0, got.*{flows}"):
        apply(make("gap"), snf(flows=flows))
