from __future__ import annotations

import pytest
import torch
from torch import nn

from petlas.petl import Design, Placement, apply, get_family, input_config, load_backbone, shape_by_name
from petlas.petl.backbones.maps import conv_grid, is_dense


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (31, 7)])
def test_the_grid_is_what_convolutions_leave(size):
    stem = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 2, stride=2))
    assert conv_grid(stem, size) == tuple(stem(torch.zeros(1, 3, *size)).shape[2:])


def test_a_dense_convolution_of_one_pixel_is_a_linear_layer():
    assert is_dense(nn.Conv2d(4, 8, 1)) and not is_dense(nn.Linear(4, 8))
    others = ({"kernel_size": 3}, {"kernel_size": 1, "stride": 2}, {"kernel_size": 1, "groups": 4})
    assert not any(is_dense(nn.Conv2d(4, 8, **arguments)) for arguments in others)
    assert not is_dense(nn.Conv2d(4, 8, 1, padding=1))


def test_a_network_of_convolutions_is_used_at_any_size():
    assert shape_by_name("convnext_atto", 96).grid == (24, 24)
    model = load_backbone("convnext_atto", img_size=40, num_classes=2, pretrained=False)
    assert input_config(model).size == 40 and get_family("convnext").image_size(model) == (40, 40)
    apply(model, Design.of([Placement("convpass", 0, 2)]))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 40, 40)).shape == model(torch.randn(1, 3, 64, 32)).shape == (1, 2)
