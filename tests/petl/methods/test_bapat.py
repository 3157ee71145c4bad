from __future__ import annotations

import math

import pytest
import torch

from petlas.petl import Design, DesignError, Placement, apply, tuned_state_dict
from petlas.petl.methods.bapat import Updates


def bapat(size=3, **options):
    return Design.of(Placement("bapat", block, size, options) for block in (0, 2))


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize(("options", "scale"), [({}, 0.2), ({"scale": 0.8, "mlp_width": 7}, 0.8)])
def test_logits_and_gradients_are_those_of_the_formula(kind, options, scale, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def after(self, path, z, x):
            place, _, layer = path.partition(".attn.")
            if layer != "qkv" or f"petl.bapat.{place}.attn.down" not in self.w:
                return z
            q, k, v = z.split(x.shape[-1], dim=-1)
            hidden = torch.tanh(x @ self.w[f"petl.bapat.{place}.attn.down"].T)
            dk, dv = (hidden @ self.w[f"petl.bapat.{place}.attn.up"].T).split(x.shape[-1], dim=-1)
            return torch.cat([q, k + scale * dk, v + scale * dv], dim=-1)

        def norm(self, path, x):
            z = super().norm(path, x)
            if path.endswith("norm2"):
                self.mlp_input = z
            return z

        def branch(self, i, m):
            key = f"petl.bapat.blocks.{i}.mlp"
            if f"{key}.down" not in self.w:
                return m
            added = 0.1 * (self.mlp_input @ self.w[f"{key}.down"].T).relu() @ self.w[f"{key}.up"].T
            return m + added * self.w.get(f"blocks.{i}.ls2.gamma", 1)

    model = tuned(bapat(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_updates_are_kaiming_and_the_branch_starts_at_zero(make):
    state = tuned_state_dict(apply(make("gap"), bapat(64)))
    key = "bapat.blocks.0"
    for name, inputs in (("attn.down", 192), ("attn.up", 64), ("mlp.down", 192)):
        values = state[f"{key}.{name}"]
        assert 0.98 / math.sqrt(inputs) < values.abs().max() <= 1 / math.sqrt(inputs)
        assert values.std().item() == pytest.approx(1 / math.sqrt(3 * inputs), rel=0.03)
    assert not state[f"{key}.mlp.up"].any()


def test_narrowed_updates_take_the_first_rows_and_columns():
    module = Updates(6, 8, 5, 0.5)
    module.narrow(2)
    a = torch.randn(3, 6)
    torch.testing.assert_close(module(a), 0.5 * torch.tanh(a @ module.down[:2].T) @ module.up[:, :2].T)


@pytest.mark.parametrize("width", [0, -1, 2.5])
def test_a_width_that_is_no_number_of_channels_is_refused(width, make):
    with pytest.raises(DesignError, match=f"mlp_width of bapat must be a whole number of at least 1, got.*{width}"):
        apply(make("gap"), bapat(mlp_width=width))
