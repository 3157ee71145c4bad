from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, Placement, apply, tuned_state_dict

WHOLE = Design.of([Placement("ssf")])
BLOCKS = Design.of([Placement("ssf", 0), Placement("ssf", 2)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize("design", [WHOLE, BLOCKS], ids=["whole", "blocks"])
def test_logits_and_gradients_are_those_of_the_formula(kind, design, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def after(self, path, z, x):
            key = f"petl.ssf.{path}"
            return z * self.w[f"{key}.scale"] + self.w[f"{key}.shift"] if f"{key}.scale" in self.w else z

    model = tuned(design, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_every_linear_norm_and_patch_layer_has_one_and_the_head_has_none(make):
    sites = {key.rpartition(".")[0] for key in tuned_state_dict(apply(make("gap"), WHOLE)) if key.startswith("ssf.")}
    inner = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert sites == {f"ssf.blocks.{i}.{layer}" for i in range(3) for layer in inner} | {
        "ssf.patch_embed.proj",
        "ssf.fc_norm",
    }


@pytest.mark.parametrize(("options", "std"), [({}, 0.02), ({"init_std": 0.1}, 0.1)])
def test_scales_start_around_1_and_shifts_around_0(options, std, make):
    state = tuned_state_dict(apply(make("plain"), Design.of([Placement("ssf", None, None, options)])))
    for leaf, mean in (("scale", 1.0), ("shift", 0.0)):
        values = torch.cat([value for key, value in state.items() if key.endswith(leaf)])
        assert values.mean().item() == pytest.approx(mean, abs=std / 20)
        assert values.std().item() == pytest.approx(std, rel=0.05)


def test_without_noise_it_starts_as_the_backbone(make, images):
    model = make("dinov2")
    with torch.no_grad():
        expected = model(images(model))
        apply(model, Design.of([Placement("ssf", None, None, {"init_std": 0})]))
        assert torch.equal(model(images(model)), expected)
