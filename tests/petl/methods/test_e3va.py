from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

from petlas.petl import Design, DesignError, Placement, apply, check_design, shape_by_name


@pytest.fixture(scope="module")
def swin():
    """Two stages, shifted windows and maps that no window divides."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "window_size": 3, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}
    return timm.create_model("swin_tiny_patch4_window7_224", **sizes, drop_path_rate=0.0, num_classes=3).eval().double()


def adapted(w, z):
    """LoRand's formula."""
    down, up = (
        sum(w[f"{s}_left"][i] @ w["kernel"][i] @ w[f"{s}_right"][i] for i in range(len(w["kernel"])))
        for s in ("down", "up")
    )
    return z + F.gelu(z @ down + w["down_bias"]) @ up + w["up_bias"]


def test_logits_and_gradients_are_those_of_the_formula(swin, shake):
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    branches, entered = [], []
    hooks = [swin.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))]
    for layer in swin.layers:
        for block in layer.blocks:
            for drop in (block.drop_path1, block.drop_path2):
                hooks.append(drop.register_forward_hook(lambda _, __, output: branches.append(output.detach())))
    own_features = swin.forward_features(images)
    for hook in hooks:
        hook.remove()
    shake(apply(swin, Design.of([Placement("e3va", None, 3)])))
    h, adapters = entered[0].detach(), iter(swin.petl.e3va.blocks)
    joins = iter(branches)
    for layer in swin.layers:
        h = layer.downsample(h)
        for _ in layer.blocks:
            own = next(adapters)
            for name in ("attn", "mlp"):
                h = adapted(own[name].state_dict(keep_vars=True), h + next(joins).view(h.shape))
    expected = swin.forward_head(F.layer_norm(h, h.shape[-1:], swin.norm.weight, swin.norm.bias, swin.norm.eps))
    found = swin(images)
    torch.testing.assert_close(found, expected)
    trained = [p for p in swin.parameters() if p.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(x.square().sum(), trained) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        for own in swin.petl.e3va.parameters():
            own.zero_()
    torch.testing.assert_close(swin.forward_features(images), own_features)


def test_no_gradient_enters_the_backbone(swin):
    apply(swin, Design.of([Placement("e3va", None, 1)])) if not hasattr(swin, "petl") else swin
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    kept = []
    hook = swin.layers[0].blocks[0].mlp.fc1.register_forward_hook(lambda _, __, output: kept.append(output))
    (gradient,) = torch.autograd.grad(swin(images).sum(), images, allow_unused=True)
    hook.remove()
    assert gradient is None and kept


@pytest.mark.parametrize(
    ("placements", "words"),
    [
        ([Placement("e3va", 1, 2)], "e3va covers the whole backbone, got block=1"),
        ([Placement("e3va", None, 2), Placement("adapter", 0, 2)], "must reach the head, and e3va replaces"),
        ([Placement("e3va", None, 2, {"beta": 0})], "beta of e3va must be a whole number of at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(placements, words):
    with pytest.raises(DesignError, match=words):
        check_design(Design.of(placements), shape_by_name("swin_tiny_patch4_window7_224"))


def test_a_network_of_convolutions_has_no_two_branches():
    with pytest.raises(DesignError, match=r"acts at attn.residual, .* a convolution in place of the attention"):
        check_design(Design.of([Placement("e3va", None, 2)]), shape_by_name("convnext_tiny"))
