from __future__ import annotations

import copy

import torch
from torch import nn

from petlas.petl import Design, Placement, apply, remove
from petlas.petl.backbones.still import batch_norms, is_still


def test_a_frozen_batch_norm_keeps_its_statistics_while_the_model_trains(small, images):
    model = small("resnet")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    apply(model, Design.of([Placement("full", None)]))
    model.train()
    assert model.training and all(is_still(norm) and not norm.training for norm in batch_norms(model))
    twin = copy.deepcopy(model)
    assert not any(norm.training for norm in batch_norms(twin.train()))
    pixels = images(model)
    whole = model(pixels)
    torch.testing.assert_close(whole[:1], model(pixels[:1]))  # no image depends on the others
    whole.sum().backward()
    remove(model)
    assert all(norm.training and not is_still(norm) for norm in batch_norms(model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_only_the_backbones_own_are_held():
    model = nn.Module()
    model.own, model.petl = nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2))
    assert list(batch_norms(model)) == [model.own]


def test_the_gradients_of_a_single_image_are_half_those_of_the_same_image_twice(small, images):
    model = apply(small("resnet").double(), Design.of([Placement("adapter", block, 2) for block in range(3)]))
    pixels, found = images(model, 1), []
    for batch in (pixels, pixels.expand(2, -1, -1, -1)):
        model.zero_grad()
        model(batch).square().sum().backward()
        found.append(model.petl.adapter.get_submodule("blocks.0").up_bias.grad)
    torch.testing.assert_close(2 * found[0], found[1])
