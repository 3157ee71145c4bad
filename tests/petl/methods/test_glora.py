from __future__ import annotations

import copy
import math

import pytest
import torch

from petlas.petl import (
    Design,
    DesignError,
    Placement,
    apply,
    count_params,
    count_tuned,
    merge,
    shape_by_name,
    tuned_state_dict,
)

FULL = {"a": "lora", "b": "lora", "c": "lora", "d": "vector", "e": "vector"}
NONE = dict.fromkeys("abcde", "none")
CHOICES = [
    ("plain", {}),
    ("dinov2", FULL),
    ("gap", {"a": "scalar", "b": "vector", "c": "vector", "d": "scalar", "e": "scalar"}),
    ("dinov2", NONE | {"a": "lora", "b": "scalar"}),
    ("gap", NONE | {"c": "lora", "d": "vector"}),
]


def glora(rank=3, blocks=(0, 2), **options):
    return Design.of(Placement("glora", block, rank, options) for block in blocks)


def support(state, key, rows, columns):
    """A support tensor spread out to its full shape."""
    if f"{key}.down" in state:
        return state[f"{key}.down"] @ state[f"{key}.up"]
    if f"{key}.value" in state:
        return state[f"{key}.value"].reshape(-1, 1).expand(rows, columns)
    return torch.zeros(rows, columns, dtype=torch.float64)


def generalised(state, path, weight, bias):
    """W + W * A + B and b + b * D + E + W C."""
    rows, columns = weight.shape
    a, b = (support(state, f"glora.{path}.{name}", rows, columns) for name in "ab")
    c = support(state, f"glora.{path}.c", columns, 1)
    d, e = (support(state, f"glora.{path}.{name}", rows, 1)[:, 0] for name in "de")
    return weight + weight * a + b, bias + bias * d + e + (weight @ c)[:, 0]


@pytest.mark.parametrize(("kind", "options"), CHOICES)
def test_logits_gradients_and_merged_weights_are_those_of_the_formula(kind, options, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def linear(self, path, x):
            state = {key.removeprefix("petl."): p for key, p in self.w.items()}
            weight, bias = generalised(state, path, self.w[f"{path}.weight"], self.w[f"{path}.bias"])
            return x @ weight.T + bias

    model = tuned(glora(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))
    state = tuned_state_dict(copy.deepcopy(model))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in merge(model).state_dict().items():
        path, _, leaf = key.rpartition(".")
        expected = before[key]
        if path.endswith(("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")):
            both = generalised(state, path, before[f"{path}.weight"], before[f"{path}.bias"])
            expected = both[leaf == "bias"]
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    ("rank", "options", "count"),
    [
        (4, FULL, 1_603_776),
        (4, {}, 755_712),
        (8, NONE | {"b": "lora"}, 1_179_648),  # LoRA on timm's four linear layers
        (4, NONE | {"e": "vector"}, 12 * 9 * 768),
        (4, dict.fromkeys("abde", "scalar"), 12 * 4 * 4),
        (4, NONE | {"c": "vector"}, 12 * 7 * 768),
        (4, NONE | {"c": "lora"}, 12 * 4 * (7 * 768 + 4)),
    ],
)
def test_the_count_on_vit_base_is_the_published_one(rank, options, count):
    assert count_params(glora(rank, range(12), **options), shape_by_name("vit_base_patch16_224")) == count


@pytest.mark.parametrize(
    ("options", "shifts"),
    [({}, True), (FULL, True), (NONE | {"d": "vector"}, False), (NONE | {"b": "lora"}, False)],
)
def test_layers_without_a_bias_have_no_d_and_get_a_bias_when_merged_if_need_be(options, shifts, tuned, images):
    design = glora(2, (0,), **options)
    model = tuned(design, "gap", double=True, qkv_bias=False)
    assert count_tuned(model) == count_params(design, model)
    assert not any("qkv.d." in key for key in tuned_state_dict(model))
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
    assert (model.blocks[0].attn.qkv.bias is not None) == shifts


def test_left_factors_and_values_start_at_zero_and_right_factors_xavier(make):
    state = tuned_state_dict(apply(make("gap"), glora(32, (0,), **FULL)))
    for key, value in state.items():
        if key.endswith((".down", ".value")):
            assert not value.any(), key
    for name, fans in (("a", 192 + 32), ("b", 192 + 32), ("c", 1 + 32)):
        bound = math.sqrt(6 / fans)
        assert 0.9 * bound < state[f"glora.blocks.0.attn.qkv.{name}.up"].abs().max() <= bound


@pytest.mark.parametrize("options", [FULL, dict.fromkeys("abde", "scalar") | {"c": "vector"}])
def test_every_choice_starts_at_zero_and_learns_within_two_steps(options, make, images):
    model = make("dinov2")
    with torch.no_grad():
        expected = model(images(model))
        assert torch.equal(apply(model, glora(**options))(images(model)), expected)
    trained = {path: p for path, p in model.named_parameters() if p.requires_grad}
    optimiser, reached = torch.optim.SGD(trained.values(), lr=0.1), set()
    for _ in range(2):
        optimiser.zero_grad()
        model(images(model, 4)).square().sum().backward()
        reached |= {path for path, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimiser.step()
    assert reached == set(trained)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"a": "matrix"}, r"option a of glora must be one of lora, vector, scalar, none, got a='matrix'"),
        ({"c": "scalar"}, r"option c of glora must be one of lora, vector, none, got c='scalar'"),
        ({"e": "lora"}, r"option e of glora must be one of vector, scalar, none, got e='lora'"),
        (NONE, r"glora must train something.*give one of a, b, c and e another kind than none"),
    ],
)
def test_unknown_kinds_and_empty_choices_are_refused(options, rule, make):
    with pytest.raises(DesignError, match=rule):
        apply(make("gap"), glora(**options))
