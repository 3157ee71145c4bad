from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from petlas.petl import (
    BackboneError,
    Design,
    DesignError,
    Placement,
    apply,
    check_design,
    load_backbone,
    remove,
    shape_by_name,
    undecayed,
)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit_tiny_r_s16_p8_224", "another stem"),
        ("vit_base_patch16_rpn_224", "other blocks"),
        ("vit_small_patch16_18x2_224", "other blocks"),
    ],
)
def test_of_a_vit_that_is_generic_it_is_told_what_is_different(name, why):
    with pytest.raises(DesignError, match=f"it has {why}.*; of this architecture petlas knows the layers"):
        check_design(Design.of([Placement("adapter", 0, 4)]), shape_by_name(name))


@pytest.mark.parametrize(
    ("name", "size", "near"), [("vit_small_patch14_dinov2", 64, "56 or 70"), ("vit_mini_patch16_64", 70, "64 or 80")]
)
def test_an_image_size_that_patches_do_not_divide_is_refused(name, size, near):
    with (
        torch.device("meta"),
        pytest.raises(BackboneError, match=f"img_size must be a multiple .* got img_size={size}; take {near}"),
    ):
        load_backbone(name, pretrained=False, img_size=size)


@pytest.mark.parametrize(
    ("blocks", "fine"), [((0, 1, 2), True), ((1, 2), True), ((2,), True), ((0, 2), False), ((0,), False)]
)
def test_features_with_prompts_in_the_stream_are_refused(blocks, fine, make, images):
    model = apply(make("plain"), Design.of(Placement("vpt", block, 4) for block in blocks))
    read = lambda: model.forward_intermediates(images(model), indices=[0, 1], intermediates_only=True)  # noqa: E731
    if fine:
        assert {tuple(features.shape) for features in read()} == {(2, 192, 2, 2)}
        return
    with pytest.raises(DesignError, match="must be the backbone's own tokens, and vpt keeps further ones"):
        read()


def test_removing_a_design_gives_the_features_function_back(make, images):
    model = make("plain")
    before = model.forward_intermediates(images(model), intermediates_only=True)
    apply(model, Design.of([Placement("vpt_shallow", None, 2)]))
    after = remove(model).forward_intermediates(images(model), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_tokens_and_position_embeddings_of_a_fully_tuned_backbone_are_not_decayed(make):
    model = apply(make("dinov2"), Design.of([Placement("full")]))
    spared = undecayed(model)
    assert {"cls_token", "reg_token", "pos_embed", "norm.weight", "blocks.0.ls1.gamma", "head.bias"} <= spared
    assert not {"head.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} & spared


def test_dropped_patches_and_a_grid_are_refused():
    model = VisionTransformer(img_size=64, embed_dim=64, depth=2, num_heads=2, num_classes=3, patch_drop_rate=0.5)
    with pytest.raises(DesignError, match=r"it has patches that are dropped in training \(patch_drop_rate\)"):
        apply(model, Design.of([Placement("convpass", 0, 4)]))
