from __future__ import annotations

import pytest
import timm
import torch

from petlas.petl import BackboneError, load_backbone
from petlas.petl.backbones.load import checkpoint_of

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return timm.create_model(NAME, img_size=32, num_classes=0, depth=12).state_dict()


def under(prefix, weights, **more):
    return {f"{prefix}{key}": value for key, value in weights.items()} | more


def moco(weights):
    other = {key: value + 1 for key, value in weights.items()}
    more = {"module.base_encoder.head.0.weight": torch.ones(2), "module.predictor.0.weight": torch.ones(2)}
    return {
        "epoch": 3,
        "state_dict": under("module.base_encoder.", weights) | under("module.momentum_encoder.", other) | more,
    }


WRAPPED = {
    "plain": lambda w: w,
    "DDP": lambda w: {"model": under("module.", w), "epoch": 1},
    "MoCo v3": moco,
    "DINO": lambda w: {
        "student": under("module.", w),
        "teacher": under("backbone.", w, **{"head.mlp.0.weight": torch.ones(2)}),
    },
    "Lightning": lambda w: {"state_dict": under("model.", w), "hyper_parameters": {"lr": 0.1}},
    "compiled": lambda w: under("_orig_mod.", w),
    "nested": lambda w: {"state_dict": under("model.backbone.", w)},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_training_code_wraps_around_weights_is_taken_off(kind, weights, tmp_path):
    torch.save(WRAPPED[kind](weights), tmp_path / "w.pth")
    model = load_backbone(NAME, tmp_path / "w.pth", img_size=32)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert checkpoint_of(model) == str(tmp_path / "w.pth")


def refused(weights, tmp_path, match, **arguments):
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=match) as caught:
        load_backbone(NAME, tmp_path / "w.pth", **{"img_size": 32} | arguments)
    assert len(str(caught.value)) < 800 + len(str(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, weights, tmp_path):
    spoilt = weights | {"blocks.3.mlp.fc1.bias": torch.full((768,), value)}
    refused(spoilt, tmp_path, "must be finite numbers, and .* has NaN or infinity in blocks.3.mlp.fc1.bias of vit_tiny")


def test_only_position_embeddings_are_resized(weights, tmp_path):
    patches = weights | {"patch_embed.proj.weight": torch.zeros(192, 3, 14, 14)}
    refused(patches, tmp_path, r"wrong shape: patch_embed.proj.weight: \(192, 3, 14, 14\) in the file")
    refused(weights | {"norm.weight": torch.ones(96)}, tmp_path, r"wrong shape: norm.weight: \(96,\)")
    torch.save(weights, tmp_path / "w.pth")
    assert load_backbone(NAME, tmp_path / "w.pth", img_size=64).pos_embed.shape == (1, 17, 192)


@pytest.mark.parametrize("tokens", [4, 7])
def test_position_embeddings_of_other_tokens_are_refused(tokens, weights, tmp_path):
    refused(
        weights | {"pos_embed": torch.zeros(1, tokens, 192)}, tmp_path, r"position embeddings \(1, \d, 192\) are not"
    )


@pytest.mark.parametrize("other", ["vit_small_patch16_224", "resnet18"])
def test_the_weights_of_another_architecture_are_refused_in_a_few_words(other, tmp_path):
    refused(
        timm.create_model(other, num_classes=0).state_dict(),
        tmp_path,
        "does not hold the weights of vit_tiny",
        img_size=None,
    )


def test_a_deeper_model_is_refused(weights, tmp_path):
    deeper = weights | {f"blocks.12.{k.split('.', 2)[2]}": v for k, v in weights.items() if k.startswith("blocks.11.")}
    refused(deeper, tmp_path, r"unexpected: blocks\.12\..* and \d+ more")


@pytest.mark.parametrize("content", [b"i am text\n", b"{}", b"", b"<html>"])
@pytest.mark.parametrize("suffix", ["pth", "bin", "txt"])
def test_a_file_that_holds_no_weights_is_told_so(content, suffix, tmp_path):
    file = tmp_path / f"w.{suffix}"
    file.write_bytes(content)
    with pytest.raises(
        BackboneError, match=rf"cannot read .*w\.{suffix} as weights of {NAME}: it is no file of weights"
    ):
        load_backbone(NAME, file)


@pytest.mark.parametrize("data", [{}, {"epoch": 3}, [1, 2]])
def test_a_file_without_named_tensors_is_told_so(data, tmp_path):
    refused(data, tmp_path, r"no named tensors|does not hold the weights")
