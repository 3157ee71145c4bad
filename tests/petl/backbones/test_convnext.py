from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, apply, get_family, get_method, merge, shape_of


@pytest.mark.parametrize("name", ["lora", "dora", "ssf", "mona", "repadapter", "sparse"])
def test_an_mlp_of_convolutions_is_one_of_linear_layers(name, small, images, shake, usual):
    """Norm and MLP of the small models work on (B, C, H, W); global response norms stand in the MLP of version 2."""
    model = small("convnext", conv_mlp=True, use_grn=name != "ssf")
    design = usual(name, model)
    with torch.no_grad():
        expected = model(images(model))
        assert torch.equal(apply(model, design)(images(model)), expected) is get_method(name).zero_start
        shake(model)
        changed = model(images(model))
        assert not torch.equal(changed, expected)
        if get_method(name).mergeable:
            torch.testing.assert_close(merge(model)(images(model)), changed, rtol=1e-3, atol=1e-4)


def test_the_same_weights_give_the_same_with_either_mlp(small, images, shake, usual):
    """Linear layers on (B, H, W, C) and 1 x 1 convolutions on (B, C, H, W) hold the same numbers."""
    linear, convolved = small("convnext"), small("convnext", conv_mlp=True)
    own = convolved.state_dict()
    convolved.load_state_dict({key: value.view_as(own[key]) for key, value in linear.state_dict().items()})
    design = Design.of(p for name in ("lora", "adapter", "mona") for p in usual(name, linear).placements)
    for model in (linear, convolved):
        apply(model, design)
        shake(model)
    convolved.petl.load_state_dict(linear.petl.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(convolved(images(linear)), linear(images(linear)), rtol=1e-4, atol=1e-5)


def test_a_norm_behind_the_pooling_is_no_part_of_the_head(small):
    model = small("convnext")
    assert shape_of(model).key("head.norm.weight") == "head_norm.weight"
    assert get_family("convnext").head(model) is model.head.fc
    assert shape_of(model).params == sum(p.numel() for n, p in model.named_parameters() if "head.fc" not in n)
