from __future__ import annotations

import pytest
import timm
import torch

from petlas.petl import Design, DesignError, Placement, apply, check_design, count_params, shape_by_name
from petlas.petl.methods.pad_prompt import Border

DESIGN = Design.of([Placement("pad_prompt", None, 10)])


def test_the_published_count():
    assert count_params(DESIGN, shape_by_name("resnet50")) == 28_080


def test_the_image_stands_in_the_middle_of_what_is_learned():
    border, images = Border(2, (5, 4)), torch.randn(3, 3, 5, 4)
    found = border(images)
    assert found.shape == (3, 3, 9, 8)
    assert torch.equal(found[:, :, 2:-2, 2:-2], images)
    around = torch.cat([p.flatten() for p in (found[0, :, :2], found[0, :, -2:], found[0, :, 2:-2, :2])])
    assert len(around) + found[0, :, 2:-2, -2:].numel() == sum(p.numel() for p in border.parameters())
    found.sum().backward()
    assert all(torch.equal(p.grad, torch.full_like(p, 3)) for p in border.parameters())  # each pixel once


def test_a_narrower_border_is_the_inner_part_of_a_wider_one():
    wide, images = Border(3, (5, 4)), torch.randn(2, 3, 5, 4)
    narrow = Border(1, (5, 4))
    narrow.load_state_dict(wide.sliced_state(1))
    assert torch.equal(narrow(images), wide(images)[:, :, 2:-2, 2:-2])
    wide.narrow(1)
    assert torch.equal(narrow(images), wide(images))


def test_along_images_of_another_size_it_is_stretched():
    border = Border(2, (4, 4))
    with torch.no_grad():
        border.rows.copy_(torch.arange(4.0).expand(2, 3, 2, 4))
        border.columns.fill_(7)
    found = border(torch.zeros(1, 3, 3, 7))
    assert found.shape == (1, 3, 7, 11)
    assert (found[0, :, 0, 2:-2].diff() >= 0).all() and found[0, 0, 0, 2] == 0 and found[0, 0, 0, -3] == 3
    assert (found[0, :, 2:-2, :2] == 7).all()


def test_the_model_sees_larger_images(shake):
    model = timm.create_model("resnet10t", num_classes=2, drop_path_rate=0.0).eval()
    vars(model)["image_size"] = (32, 32)
    images = torch.randn(2, 3, 32, 32)
    shake(apply(model, DESIGN))
    border = model.petl.pad_prompt
    plain = timm.create_model("resnet10t", num_classes=2, drop_path_rate=0.0).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("petl.")})
    assert torch.equal(model(images), plain(border(images)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_who_takes_images_of_one_size_has_no_room_for_it(name):
    with pytest.raises(DesignError, match=r"acts at pixels, .*: it takes images of one size"):
        check_design(DESIGN, shape_by_name(name))
