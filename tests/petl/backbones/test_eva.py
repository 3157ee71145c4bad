from __future__ import annotations

import pytest
import timm
import torch

from petlas.petl import (
    BackboneError,
    Design,
    Placement,
    apply,
    count_params,
    get_family,
    merge,
    shape_by_name,
    shape_of,
)

FUSED = {
    "a table of each block": {"model_name": "beit_base_patch16_224"},
    "a table of all blocks": {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    "fused q, k and v that are not called": {"model_name": "eva02_tiny_patch14_224"},
    "q, k and v in one layer, registers": {"model_name": "vit_small_patch16_dinov3", "img_size": 32},
    "rotations of each block": {"model_name": "vit_small_patch16_rope_mixed_224", "img_size": 32},
}
"""What the small models of the conformance tests have otherwise."""


def variant(kind, small):
    given = dict(FUSED[kind])
    family = "eva" if {"eva", "dinov3", "rope"} & set(given.get("model_name", "").split("_")) else "beit"
    family = "eva" if "eva02" in given.get("model_name", "") else family
    return get_family(family), small(family, **given)


@pytest.mark.parametrize("kind", FUSED)
def test_other_attentions_and_mlps_take_methods_and_run_in_parts(kind, small, images, usual, shake):
    family, model = variant(kind, small)
    assert family.why_not(model) is None
    names = ("lora", "adapter", "linear_adapter", "mona")
    design = Design.of(p for name in names for p in usual(name, model).placements)
    apply(model, design)
    shake(model)
    with torch.no_grad():
        x = family.enter(model, images(model))
        for index in range(2):
            x = family.step(model, index, x)
        assert torch.equal(family.leave(model, x), model(images(model)))
    assert count_params(design, model) == sum(
        p.numel() for name, p in model.petl.named_parameters() if not name.startswith("head")
    )


@pytest.mark.parametrize("kind", FUSED)
def test_low_rank_updates_of_every_layer_are_merged(kind, small, images, shake):
    _, model = variant(kind, small)
    known = [name for layer in shape_of(model).blocks[0].linears for name in layer.names]
    apply(model, Design.of(Placement("lora", b, 2, (("targets", ",".join(known)),)) for b in range(2)))
    shake(model)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-3, atol=1e-4)


def test_tokens_behind_the_patches_are_turned_by_nothing(small, images):
    """As when they stand behind the class token, and the attention is told of one class token more for each."""
    model, other = small("eva"), small("eva")
    apply(model, Design.of([Placement("vpt", 0, 2)]))
    tokens = model.petl.get_submodule("vpt.blocks.0").tokens.detach()
    for block in other.blocks:
        block.attn.num_prefix_tokens += len(tokens)

    def insert(block, args):
        (x,) = args
        return (torch.cat((x[:, :1], tokens.expand(len(x), -1, -1), x[:, 1:]), dim=1),)

    def take_out(norm, args):
        (x,) = args
        return (torch.cat((x[:, :1], x[:, 1 + len(tokens) :]), dim=1),)

    other.blocks[0].register_forward_pre_hook(insert)
    other.norm.register_forward_pre_hook(take_out)
    with torch.no_grad():
        other.head.load_state_dict(model.head.state_dict())
        torch.testing.assert_close(model(images(model)), other(images(model)), rtol=1e-5, atol=1e-5)


def test_prefixes_are_keys_that_are_turned_by_nothing(small, images):
    """A prefix whose keys win over all others is what every token reads."""
    model = small("eva")
    apply(model, Design.of([Placement("prefix", 0, 1)]))
    prefix, seen = model.petl.get_submodule("prefix.blocks.0"), []
    model.blocks[0].attn.norm.register_forward_hook(lambda norm, args, output: seen.append(args[0]))
    queries = []
    model.blocks[0].attn.q_proj.register_forward_hook(lambda layer, args, output: queries.append(output[:, :1]))
    with torch.no_grad():
        model(images(model, 1))
        prefix.keys.copy_(1e6 * queries[0][0])
        model(images(model, 1))
    torch.testing.assert_close(seen[1][0, 0], prefix.values[0])


def test_a_model_for_any_size_runs_in_parts_at_its_own(small, images):
    model = small("eva", model_name="vit_small_patch16_dinov3", img_size=32)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 48, 32)).shape == (1, 5)
        with pytest.raises(BackboneError, match=r"those of images of 32 x 32 .* got 48 x 32; make the backbone with"):
            get_family("eva").enter(model, torch.randn(1, 3, 48, 32))


def test_published_counts():
    shape = shape_by_name("eva02_base_patch16_clip_224")
    assert shape.params == 85_869_312
    assert count_params(Design.of([Placement("ln_tune", None)]), shape) == 105_984
    assert count_params(Design.of([Placement("bitfit", None)]), shape) == 139_776


@pytest.mark.parametrize(
    ("name", "reason"),
    [("eva02_tiny_patch14_224", None), ("vit_pe_core_tiny_patch16_384", None), ("vit_base_patch16_224", "")],
)
def test_what_is_one_and_what_is_not(name, reason):
    with torch.device("meta"):
        assert get_family("eva").why_not(timm.create_model(name)) == reason
