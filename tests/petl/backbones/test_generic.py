from __future__ import annotations

import pytest
import timm
import torch
from timm.models.cait import Cait
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from petlas.petl import (
    BackboneError,
    Design,
    DesignError,
    Placement,
    Streams,
    apply,
    check_design,
    count_params,
    count_tuned,
    everywhere,
    family_of,
    get_family,
    load_adapter,
    load_backbone,
    merge,
    prefix_of,
    remove,
    resume,
    run_prefix,
    save_adapter,
    shape_by_name,
    shape_of,
)

OFFERED = ("linear", "full", "bitfit", "ln_tune", "lora", "dora", "linear_adapter")
UNLIKE = {
    "mobilevit_xxs": "convolutions and attention within blocks, batch norms",
    "pvt_v2_b0": "stages that are the blocks, layer norms, depthwise convolutions in the MLP",
    "cait": "learned scales, and blocks that are given class tokens apart: it does not run in parts",
}
SMALL = {"img_size": 64, "embed_dim": 32, "num_classes": 3}


@pytest.fixture(scope="module")
def _awake():
    """Random models in which no branch is inert."""
    models = {}
    for name in UNLIKE:
        torch.manual_seed(0)
        if name == "cait":
            model = Cait(**SMALL, depth=2, depth_token_only=1, num_heads=2)
        else:
            model = load_backbone(name, pretrained=False, num_classes=3, img_size=64)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if parameter.ndim == 1 and path.endswith(("weight", "gamma_1", "gamma_2")):
                    parameter.fill_(1.0)
                parameter.add_(torch.randn(parameter.shape) * 0.02)
        models[name] = model.eval()
    return models


@pytest.mark.parametrize("method", [*OFFERED[1:4], "lora"])
@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_offered_counts_trains_saves_merges_and_comes_off(name, method, _awake, shake, images, tmp_path):
    model = _awake[name]
    shape, pixels = shape_of(model), images(model)
    design = everywhere(method, model, 2 if method == "lora" else None)
    before = {path: value.clone() for path, value in model.state_dict().items()}
    with torch.no_grad():
        plain = model(pixels)
        assert torch.equal(apply(model, design)(pixels), plain)
    assert count_params(design, shape) == count_tuned(model)
    shake(model, 0.02)
    model.train()(pixels).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.petl.parameters())
    with torch.no_grad():
        trained = model.eval()(pixels)
        assert not torch.equal(trained, plain)
        save_adapter(model, tmp_path / "a.safetensors")
        remove(model)
        assert all(torch.equal(value, before[path]) for path, value in model.state_dict().items())
        assert torch.equal(load_adapter(tmp_path / "a.safetensors", model)(pixels), trained)
        torch.testing.assert_close(merge(model)(pixels), trained, rtol=1e-3, atol=1e-4)
    model.load_state_dict(before)


def test_training_behind_what_is_kept_is_the_same_to_the_digit(_awake, shake, images):
    model = _awake["mobilevit_xxs"]
    apply(model, Design.of([Placement("lora", 8, 2, (("targets", "all"),))]))
    shake(model)
    prefix, pixels = prefix_of(model.train()), images(model)
    assert prefix.blocks == 8
    streams = Streams(prefix, run_prefix(model, pixels, prefix), (64, 64))
    assert torch.equal(resume(model, streams), model(pixels))
    remove(model.eval())


class Moved(MlpMixer):
    """What it does in place is none of its modules, and leaves the tensor that they hand on the same object."""

    def forward_features(self, x):
        return super().forward_features(x).add_(0.5)


@pytest.mark.parametrize("how", ["it draws random numbers in training", "its blocks compute something else"])
def test_what_is_no_chain_after_all_is_found_out_and_nothing_is_kept(how):
    model = (MlpMixer if how.startswith("it draws") else Moved)(**SMALL, num_blocks=2)
    if how.startswith("it draws"):
        model.blocks[1].mlp_tokens.drop1.p = 0.5
    assert shape_of(model).gap is None
    apply(model, Design.of([Placement("lora", 1, 2, (("targets", "all"),))]))
    assert family_of(model).why_whole(model).startswith(how)
    assert prefix_of(model) is None


def test_what_is_not_offered_is_refused_with_what_is():
    shape = shape_by_name("mobilevit_xxs")
    with pytest.raises(DesignError, match=r"adapter acts at mlp.out, which .* so that it offers linear, full, bitfit"):
        check_design(Design.of([Placement("adapter", 0, 4)]), shape)
    with pytest.raises(DesignError, match=r"lora acts at attn.q, attn.v, which .*\(targets: all\)"):
        check_design(Design.of([Placement("lora", 0, 4)]), shape)
    everything = Design.of([Placement("lora", 0, 4, (("targets", "all"),))])
    assert count_params(everything, shape) == 4 * sum(layer.inputs + layer.outputs for layer in shape.blocks[0].linears)


@pytest.mark.parametrize(
    ("name", "why"),
    [("levit_128", "other than one head"), ("coat_tiny", "weights that several layers share"), ("vgg11", None)],
)
def test_what_is_one_and_what_is_not(name, why):
    with torch.device("meta"):
        assert get_family("generic").why_not(timm.create_model(name)) == why


def test_other_families_come_first_and_no_model_of_timm_at_all_is_refused(make):
    assert get_family("generic").why_not(make("plain")) is None and family_of(make("plain")).name == "vit"
    assert get_family("generic").why_not(nn.Linear(2, 2)) == ""


def test_sizes_that_a_model_does_not_take_are_refused():
    assert load_backbone("poolformerv2_s12", pretrained=False, img_size=96).followed.size == (96, 96)
    with pytest.raises(BackboneError, match=r"inception_v3 takes no .*, got img_size=32; leave it out"):
        shape_by_name("inception_v3", 32)
