from __future__ import annotations

import math

import pytest
import torch

from petlas.petl import (
    Design,
    Placement,
    apply,
    count_params,
    count_tuned,
    get_method,
    merge,
    shape_by_name,
    tuned_state_dict,
)


def hydra(rank=3, blocks=(0, 2), **options):
    return Design.of(Placement("hydra", block, rank, options) for block in blocks)


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize(("options", "scale"), [({}, 1.0), ({"scale": 4.5}, 4.5)])
def test_logits_and_gradients_are_those_of_the_formula(kind, options, scale, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def bottleneck(self, key, x):
            hidden = x @ self.w[f"{key}.down"].T + self.w[f"{key}.down_bias"]
            return hidden @ self.w[f"{key}.up"].T + self.w[f"{key}.up_bias"]

        def after(self, path, z, x):
            site = {"proj": "attn", "fc2": "mlp"}.get(path.rpartition(".")[2])
            key = f"petl.hydra.{'.'.join(path.split('.')[:2])}.{site}"
            if f"{key}.parallel.down" not in self.w:
                return z
            return z + scale * (self.bottleneck(f"{key}.parallel", x) + self.bottleneck(f"{key}.sequential", z))

    model = tuned(hydra(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_merging_gives_the_weights_of_the_formula(tuned, make):
    model = tuned(hydra(scale=0.5), "gap", double=True)
    tensors = {key: value.clone() for key, value in tuned_state_dict(model).items()}
    merge(model)
    after, before = model.state_dict(), make("gap").double().state_dict()
    for site, layer in (("attn", "attn.proj"), ("mlp", "mlp.fc2")):
        w, b = before[f"blocks.2.{layer}.weight"], before[f"blocks.2.{layer}.bias"]
        folded = []
        for head in ("parallel", "sequential"):
            down, down_bias, up, up_bias = (
                tensors[f"hydra.blocks.2.{site}.{head}.{leaf}"] for leaf in ("down", "down_bias", "up", "up_bias")
            )
            folded += [up @ down, up @ down_bias + up_bias]
        p_w, p_b, q_w, q_b = folded
        new_w, new_b = w + 0.5 * (p_w + q_w @ w), b + 0.5 * (p_b + q_w @ b + q_b)
        torch.testing.assert_close(after[f"blocks.2.{layer}.weight"], new_w, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(after[f"blocks.2.{layer}.bias"], new_b, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("blocks.1."))


def test_layers_without_a_bias_get_one_when_merged(tuned, images):
    model = tuned(hydra(), "gap", double=True, proj_bias=False)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
    assert model.blocks[0].attn.proj.bias is not None and model.blocks[1].attn.proj.bias is None


def test_the_count_is_that_of_the_reference():
    method, shape = get_method("hydra"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 2)), shape) == 239_712


def test_the_count_follows_the_width_of_the_mlp(make):
    model = make("gap", mlp_ratio=2.5)
    predicted = count_params(hydra(), model)
    beside_fc2, others = 3 * (480 + 192) + 3 + 192, 3 * (192 + 192) + 3 + 192
    assert predicted == count_tuned(apply(model, hydra())) == 2 * (beside_fc2 + 3 * others)


def test_down_is_xavier_and_the_rest_is_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), hydra(64, (0,))))
    for site, head, inputs in (("attn", "parallel", 192), ("mlp", "parallel", 768), ("mlp", "sequential", 192)):
        key, bound = f"hydra.blocks.0.{site}.{head}", math.sqrt(6 / (inputs + 64))
        assert state[f"{key}.down"].shape == (64, inputs)
        assert 0.98 * bound < state[f"{key}.down"].abs().max() <= bound
        assert state[f"{key}.down"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert not any(state[f"{key}.{leaf}"].any() for leaf in ("up", "down_bias", "up_bias"))


def test_dropout_is_off_by_default_and_can_be_set(make, shake, images):
    for options, same in (({}, True), ({"dropout": 0.2}, False)):
        model = apply(make("gap"), hydra(**options))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same
