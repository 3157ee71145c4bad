from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, Placement, apply, count_params, shape_by_name, tuned_state_dict


def last(rank=3):
    return Design.of([Placement("last", None, rank)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        """The sums as the paper writes them: all in u, and what the backbone gave taken off at the end."""

        def side(self, i, u):
            own = {name: self.w[f"petl.last.layers.{i}.{name}"] for name in ("norm", "norm_bias", "qkv", "up")}
            centred = u - u.mean(-1, keepdim=True)
            a = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * own["norm"] + own["norm_bias"]
            q, k, v = (a @ w.T for w in own["qkv"])
            return u + (q @ k.transpose(1, 2) / 3**0.5).softmax(-1) @ v @ own["up"].T

        def forward(self, images):
            x = self.embed(images)
            u, off = self.side(0, x), x
            for i in range(self.depth):
                x = self.block(i, x)
                u, off = self.side(i + 1, u + x), off + x
            x = self.norm("norm", u - (off - x))
            x = x[:, self.model.num_prefix_tokens :].mean(1) if self.model.global_pool == "avg" else x[:, 0]
            return self.norm("fc_norm", x) @ self.w["head.weight"].T + self.w["head.bias"]

    model = tuned(last(), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_rank_16_has_the_published_number_of_parameters():
    shape = shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of([Placement("last", None, 16)]), shape) == 658_944


def test_only_the_way_up_is_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), last(16)))
    for i in range(4):
        qkv = state[f"last.layers.{i}.qkv"]
        assert not state[f"last.layers.{i}.up"].any()
        assert 0.98 / 192**0.5 < qkv.abs().max() <= 1 / 192**0.5
        assert (state[f"last.layers.{i}.norm"] == 1).all() and not state[f"last.layers.{i}.norm_bias"].any()


def test_the_scale_follows_the_active_rank(tuned):
    module = tuned(last(4), "gap").petl.get_submodule("last.layers.0")
    x = torch.randn(2, 5, 192)
    module.narrow(2)
    a = torch.nn.functional.layer_norm(x, (192,), module.norm, module.norm_bias, 1e-6)
    q, k, v = (a @ w[:2].T for w in module.qkv)
    expected = (q @ k.transpose(1, 2) / 2**0.5).softmax(-1) @ v @ module.up[:, :2].T
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
