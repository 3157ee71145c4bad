from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import window_partition

from petlas.petl import BackboneError, Design, Placement, apply, family_of, get_family, load_backbone, shape_of


def test_sites_on_maps_are_given_as_tokens_row_by_row(small, images):
    model = small("swin")
    seen = {}
    for name in ("attn.stream", "attn.residual", "mlp.stream", "block.out"):
        get_family("swin").site(model, name, 1).read(lambda x, name=name: seen.update({name: x}))
    kept = []
    model.layers[0].blocks[1].register_forward_hook(lambda block, args, output: kept.extend((args[0], output)))
    with torch.no_grad():
        model(images(model))
    assert torch.equal(seen["attn.stream"], kept[0].reshape(2, 64, 32))
    assert torch.equal(seen["block.out"], kept[1].reshape(2, 64, 32))
    torch.testing.assert_close(seen["mlp.stream"], seen["attn.stream"] + seen["attn.residual"])


def test_what_stands_in_front_of_q_k_and_v_sees_the_padded_windows(small, images):
    model = small("swin")
    seen = []
    get_family("swin").site(model, "attn.in", 0).read(seen.append)
    with torch.no_grad():
        stream = model.patch_embed(images(model))
        model.layers[0].blocks[0](stream)
        normed = model.layers[0].blocks[0].norm1(stream)
        padded = torch.nn.functional.pad(normed, (0, 0, 0, 1, 0, 1))
        assert torch.equal(seen[0], window_partition(padded, (3, 3)).flatten(1, 2))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_another_image_size_changes_grids_and_windows(name):
    model = load_backbone(name, img_size=96, pretrained=False, num_classes=3)
    assert [stage.grid for stage in shape_of(model).stages] == [(24, 24), (12, 12), (6, 6), (3, 3)]
    apply(model, Design.of([Placement("mona", block, 4) for block in (0, 11)] + [Placement("lora", 3, 2)]))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 96, 96)).shape == (1, 3)


def test_images_of_any_size_have_grids_of_their_own(small):
    model = small("swin", strict_img_size=False)
    apply(model, Design.of([Placement("convpass", block, 2) for block in range(3)]))
    assert family_of(model).grid(model, (20, 44)) == (5, 11)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 20, 44)).shape == (1, 5)


def test_a_size_that_is_no_multiple_of_a_patch_is_refused():
    with pytest.raises(BackboneError, match=r"img_size must be a multiple of the 4 pixels.*take 96 or 100"):
        load_backbone("swin_tiny_patch4_window7_224", img_size=98, pretrained=False)
