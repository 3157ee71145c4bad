from __future__ import annotations

import pytest
import torch
from torch import nn

from petlas.petl import FAMILIES, BackboneError, family_of, get_family


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backbone_in_parts_computes_what_it_computes_as_a_whole(kind, checkpointing, make, images):
    model = make(kind)
    model.set_grad_checkpointing(checkpointing)
    family, pixels = family_of(model), images(model)
    with torch.inference_mode():
        x = family.enter(model, pixels)
        for block in family.blocks(model):
            x = block(x)
        assert torch.equal(family.leave(model, x), model(pixels))
        features = family.features(model, pixels)
        assert torch.equal(model.head(features), model(pixels))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_enters_the_first_block_is_what_its_own_hooks_have_not_yet_seen(make, images):
    model = make("plain")
    block = model.blocks[0]
    plain = family_of(model).enter(model, images(model))
    block.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    assert torch.equal(family_of(model).enter(model, images(model)), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_describes_itself_and_has_the_sites_that_design_names(name):
    family = get_family(name)
    assert family.name == name and family.summary
    assert get_family(name) is family
    named = {"attn.in", "attn.qkv", "attn.out", "mlp.in", "mlp.out", "tokens", "block.out"}
    assert named <= family.sites | set(family.lacks) and not family.sites & set(family.lacks)


def test_a_site_says_its_width_and_its_layout(make):
    model = make("plain")
    family = family_of(model)
    site = family.site(model, "attn.in", 1)
    assert (site.name, site.width, site.layout, site.side) == ("attn.in", 192, "NLC", "in")
    stem = family.layer_site(model, family.shape(model).layers[0])
    assert (stem.width, stem.layout, stem.channels) == (192, "NCHW", 1)


def test_a_model_of_no_family_is_refused():
    with pytest.raises(BackboneError, match=r"must be a plain .*, and Linear is a Linear; take a vit_\*"):
        family_of(nn.Linear(2, 2))


def test_a_bias_is_added_to_or_made(make):
    model = make("plain")
    block = family_of(model).block_sites(model)[1]
    layer = block.shape.linear("fc1")
    module = block.layer(layer)
    before, update = module.bias.detach().clone(), torch.arange(1.0, layer.outputs + 1)
    block.add_to_bias(layer, update)
    assert torch.equal(module.bias, before + update)
    module.bias = None
    block.add_to_bias(layer, update)
    assert torch.equal(module.bias, update) and not module.bias.requires_grad
    update.zero_()
    assert module.bias[:2].tolist() == [1, 2]
