from __future__ import annotations

import copy

import pytest
import torch

from petlas.petl import (
    Design,
    DesignError,
    Placement,
    apply,
    count_params,
    merge,
    shape_by_name,
    tuned_state_dict,
)
from petlas.petl.backbones.vit import ViT
from petlas.petl.methods.dora import Decomposed

LINEARS = {place: names for place, names in ViT.names.items() if "norm" not in place}

ALL = "q,k,v,proj,fc1,fc2"


def dora(rank=3, blocks=(0, 2), **options):
    return Design.of(Placement("dora", block, rank, options) for block in blocks)


def normalised(state, path, weight, scale):
    """m (W + s B A) / ||W + s B A|| in the rows of each target, with the norm a constant."""
    rows = []
    for layer, names in LINEARS.items():
        if path.endswith(layer):
            for name, part in zip(names, weight.chunk(len(names)), strict=True):
                key = f"dora.{path.removesuffix('.' + layer)}.{name}"
                if f"{key}.up" in state:
                    direction = part + scale * state[f"{key}.up"] @ state[f"{key}.down"]
                    norm = direction.detach().square().sum(1, keepdim=True).sqrt()
                    rows.append(state[f"{key}.magnitude"][:, None] * direction / norm)
                else:
                    rows.append(part)
    return torch.cat(rows) if rows else weight


@pytest.mark.parametrize(
    ("kind", "options", "scale"),
    [
        ("plain", {}, 1.0),
        ("dinov2", {"targets": ALL, "alpha": 6}, 2.0),
        ("gap", {"targets": "k,fc1", "alpha": 1.5}, 0.5),
    ],
)
def test_logits_gradients_and_merged_weights_are_those_of_the_formula(
    kind, options, scale, tuned, by_hand, same_as_by_hand
):
    class Formulas(by_hand):
        def linear(self, path, x):
            state = {key.removeprefix("petl."): p for key, p in self.w.items()}
            return x @ normalised(state, path, self.w[f"{path}.weight"], scale).T + self.w[f"{path}.bias"]

    model = tuned(dora(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))
    state, before = tuned_state_dict(copy.deepcopy(model)), {k: v.clone() for k, v in model.state_dict().items()}
    for key, value in merge(model).state_dict().items():
        path = key.removesuffix(".weight")
        expected = before[key] if path == key else normalised(state, path, before[key], scale)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("targets", ["q,v", ALL])
def test_outputs_and_gradients_are_those_of_peft(targets, tuned, against_peft):
    model = tuned(dora(targets=targets, alpha=12), "gap", double=True)
    against_peft(model, "dora", targets, r=3, lora_alpha=12, use_dora=True)


@pytest.mark.parametrize(
    ("rank", "targets", "count"), [(8, "q,v", 313_344), (8, ALL, 1_410_048), (1, "fc1", 12 * (5 * 768 + 3072))]
)
def test_the_count_on_vit_base_is_the_published_one(rank, targets, count):
    assert count_params(dora(rank, range(12), targets=targets), shape_by_name("vit_base_patch16_224")) == count


def test_magnitudes_start_as_the_norms_of_the_frozen_rows(make):
    model = apply(make("gap"), dora(targets=ALL))
    q, _, v = model.blocks[2].attn.qkv.weight.chunk(3)
    state = tuned_state_dict(model)
    for name, weight in (("q", q), ("v", v), ("fc2", model.blocks[2].mlp.fc2.weight)):
        torch.testing.assert_close(state[f"dora.blocks.2.{name}.magnitude"], weight.square().sum(1).sqrt())
        assert not state[f"dora.blocks.2.{name}.up"].any()


def test_magnitudes_are_measured_once_and_then_stay_as_trained(tuned):
    model = tuned(dora(), "gap")
    before = {key: value.clone() for key, value in tuned_state_dict(model).items()}
    model.petl.connect(model, model.petl.design)
    assert all(torch.equal(value, before[key]) for key, value in tuned_state_dict(model).items())


def test_a_layer_without_a_bias_is_scaled_too(tuned, images):
    model = tuned(dora(targets=ALL), "gap", double=True, qkv_bias=False)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
    assert model.blocks[0].attn.qkv.bias is None


def test_rows_of_zeros_stay_and_do_no_harm():
    part, weight = Decomposed(4, 3, 2, None, 0.0), torch.randn(3, 4)
    weight[1] = 0
    part.measure(weight)
    assert part.gain(weight).isfinite().all()
    torch.testing.assert_close(part.gain(weight)[:, None] * weight, weight)


def test_under_autocast_small_changes_of_the_magnitudes_count(make):
    model = apply(make("gap"), dora())
    layer, x = model.blocks[0].attn.qkv, torch.randn(1, 8, 192)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        model.petl.get_submodule("dora.blocks.0.q").magnitude.mul_(1.003)  # 1 in bfloat16
        after = layer(x)
    assert before.dtype == after.dtype == torch.bfloat16
    assert (before[..., :192] != after[..., :192]).float().mean() > 0.3
    assert torch.equal(before[..., 192:], after[..., 192:])


def test_it_cannot_stand_beside_another_method_that_reads_the_frozen_weights(make):
    design = Design.of([Placement("dora", 0, 2), Placement("glora", 0, 2)])
    with pytest.raises(DesignError, match="one method may replace the frozen linear weights, got dora and glora"):
        apply(make("gap"), design)


def test_unknown_targets_are_refused(make):
    with pytest.raises(DesignError, match=r"targets of dora must name some of q, .*got targets='o'"):
        apply(make("gap"), dora(targets="o"))
