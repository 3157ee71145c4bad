from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from petlas.petl import Design, DesignError, Placement, apply, count_params, count_tuned, merge, tuned_state_dict
from petlas.petl.backbones.vit import ViT

LINEARS = {place: names for place, names in ViT.names.items() if "norm" not in place}


def adapters(width=3, blocks=(0, 2), **options):
    return Design.of(Placement("linear_adapter", block, width, options) for block in blocks)


def bottleneck(w, key, y):
    z = y @ w[f"{key}.down"].T + w[f"{key}.down_bias"]
    return z * 0.5 * (1 + torch.erf(z / 2**0.5)) @ w[f"{key}.up"].T + w[f"{key}.up_bias"]


@pytest.mark.parametrize(("kind", "options"), [("plain", {}), ("dinov2", {"targets": "v, fc1"}), ("gap", {})])
def test_logits_and_gradients_are_those_of_the_formula(kind, options, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def after(self, path, z, x):
            block, _, layer = path.removeprefix("blocks.").partition(".")
            for share, name in enumerate(LINEARS.get(layer, ())):
                key = f"petl.linear_adapter.blocks.{block}.{name}"
                if f"{key}.up" in self.w:
                    outputs = z.shape[-1] // len(LINEARS[layer])
                    own = slice(share * outputs, (share + 1) * outputs)
                    z = torch.cat([z[..., : own.start], z[..., own] + bottleneck(self.w, key, z[..., own]),
                                   z[..., own.stop :]], dim=-1)  # fmt: skip
            return z

    model = tuned(adapters(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_every_linear_layer_has_one_by_default(make):
    state = tuned_state_dict(apply(make("gap"), adapters(2, (1,))))
    up = {key.split(".")[3]: value.shape for key, value in state.items() if key.endswith(".up")}
    assert up == {name: (768 if name == "fc1" else 192, 2) for name in ("q", "k", "v", "proj", "fc1", "fc2")}


def test_down_is_kaiming_and_the_rest_is_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), adapters(64, (1,))))
    for key, value in state.items():
        if key.endswith(".down"):
            bound = value.shape[1] ** -0.5
            assert 0.99 * bound < value.abs().max() <= bound
        elif not key.startswith("head."):
            assert not value.any(), key


def test_beside_lora_it_reads_the_updated_output(tuned, shake):
    both = [*adapters(2, (0,), targets="proj").placements, Placement("lora", 0, 2, {"targets": "proj"})]
    model = tuned(Design.of(both), "gap", double=True)
    w, x = dict(model.petl.named_parameters()), torch.randn(1, 4, 192, dtype=torch.float64)
    layer = model.blocks[0].attn.proj
    y = F.linear(x, layer.weight + w["lora.blocks.0.proj.up"] @ w["lora.blocks.0.proj.down"], layer.bias)
    torch.testing.assert_close(layer(x), y + bottleneck(w, "linear_adapter.blocks.0.proj", y))


def test_dropout_acts_on_what_down_reads(make):
    model = apply(make("gap"), adapters(1, (0,), dropout=0.5, targets="proj")).train()
    part = model.petl.get_submodule("linear_adapter.blocks.0.proj")
    layer = model.blocks[0].attn.proj
    for tensor, value in ((layer.weight, 0.0), (layer.bias, 1.0), (part.down, 1.0), (part.up, 1.0)):
        nn.init.constant_(tensor, value)
    z = layer(torch.zeros(1, 500, 192))[0, :, 0] - 1  # twice the number of outputs that were kept
    assert (z > 100).all() and z.mean().item() == pytest.approx(192, rel=0.02) and len(z.unique()) > 10
    model.eval()
    assert (layer(torch.zeros(1, 1, 192)) == 1 + 192).all()


@pytest.mark.parametrize("arguments", [{"mlp_ratio": 2.5}, {"qkv_bias": False}])
def test_the_count_holds_on_other_backbones(arguments, make):
    model = make("gap", **arguments)
    design = adapters(2, (0,))
    predicted = count_params(design, model)
    assert count_tuned(apply(model, design)) == predicted


def test_unknown_targets_and_merging_are_refused(make):
    with pytest.raises(DesignError, match=r"targets of linear_adapter must name some of q, .*got targets='o'"):
        apply(make("gap"), adapters(targets="o"))
    with pytest.raises(DesignError, match=r"linear in the features.*linear_adapter cannot"):
        merge(apply(make("gap"), adapters()))
