from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, DesignError, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict


def u_tuning(size=3, **options):
    return Design.of(Placement("u_tuning", block, size, options) for block in (0, 2))


ALL = {"attn": "adapter", "mlp": "prefix", "block": "adapter"}


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize("options", [{}, {"mlp": "adapter"}, {"attn": "none", "block": "prefix"}, ALL])
def test_logits_and_gradients_are_those_of_the_formula(kind, options, tuned, by_hand, same_as_by_hand):
    kinds = {"attn": "prefix", "mlp": "none", "block": "none"} | options

    class Formulas(by_hand):
        def tuner(self, i, place, x):
            key = f"petl.u_tuning.blocks.{i}.{place}"
            if kinds[place] == "none" or f"{key}.down" not in self.w:
                return 0.0
            scores = x @ self.w[f"{key}.down"].T
            if kinds[place] == "prefix":
                exponents = torch.exp(scores / x.shape[-1] ** 0.5)
                return exponents / exponents.sum(-1, keepdim=True) @ self.w[f"{key}.up"].T
            return F.gelu(scores) @ self.w[f"{key}.up"].T

        def after(self, path, z, x):
            if path.endswith("norm2"):
                self.normed = z
            return z + self.tuner(path.split(".")[1], "mlp", self.normed) if path.endswith("fc2") else z

        def attention(self, path, x):
            return super().attention(path, x) + self.tuner(path.split(".")[1], "attn", x)

        def before(self, i, x):
            self.entered = x
            return x

        def behind(self, i, x):
            return x + self.tuner(i, "block", self.entered)

    model = tuned(u_tuning(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_the_count_is_that_of_the_reference_and_grows_with_each_tuner():
    method, shape = get_method("u_tuning"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 10)), shape) == 184_320
    for options, tuners in (({"mlp": "adapter"}, 2), (ALL, 3), ({"attn": "none", "block": "prefix"}, 1)):
        assert count_params(u_tuning(10, **options), shape) == tuners * 2 * (2 * 768 * 10)


def test_keys_are_kaiming_and_values_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), u_tuning(64, **ALL)))
    own = {key.removeprefix("u_tuning.blocks."): value for key, value in state.items() if key.startswith("u_tuning")}
    assert set(own) == {f"{i}.{at}.{leaf}" for i in (0, 2) for at in ALL for leaf in ("down", "up")}
    for key, value in own.items():
        if key.endswith("up"):
            assert not value.any()
        else:
            assert 0.98 / math.sqrt(192) < value.abs().max() <= 1 / math.sqrt(192)


def test_dropout_is_off_by_default_and_can_be_set(make, shake, images):
    for options, same in (({}, True), ({"dropout": 0.5}, False)):
        model = apply(make("gap"), u_tuning(**options))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same


def test_unknown_tuners_and_none_at_all_are_refused(make):
    with pytest.raises(DesignError, match="mlp of u_tuning must be one of adapter, prefix, none, got mlp='lora'"):
        apply(make("gap"), u_tuning(mlp="lora"))
    with pytest.raises(DesignError, match="needs a tuner at one of attn, mlp, block, got none at all"):
        apply(make("gap"), u_tuning(attn="none"))
