from __future__ import annotations

from functools import reduce

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
from petlas.petl.backbones.checkpoint import load_file

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


def renamed(state, *pairs):
    def name(key):
        return reduce(lambda text, pair: text.replace(*pair), pairs, key)

    return {name(key): value for key, value in state.items()}


def as_eva02(state):
    """BAAI's file after masked image modelling."""
    pairs = (("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3"), ("mlp.norm", "mlp.ffn_ln"))
    more = (("attn.norm", "attn.inner_attn_ln"), ("q_proj.bias", "q_bias"), ("v_proj.bias", "v_bias"))
    own = renamed(state, *pairs, *more, ("fc_norm.", "norm."))
    turns = {f"blocks.{i}.attn.rope.{name}": torch.ones(4, 16) for i in range(2) for name in ("freqs_cos", "freqs_sin")}
    return {"module": own | turns | {"mask_token": torch.ones(1, 1, 32), "lm_head.weight": torch.ones(8, 32)}}


def as_openclip(state):
    """A file of EVA-CLIP, with both towers."""
    pairs = (("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3"), ("mlp.norm", "mlp.ffn_ln"))
    own = renamed(state, *pairs, ("q_proj.bias", "q_bias"), ("v_proj.bias", "v_bias"))
    return {f"visual.{key}": value for key, value in own.items()} | {"text.positional_embedding": torch.ones(2, 32)}


def as_dinov3(state):
    """Meta's file."""
    found = {
        "storage_tokens": state["reg_token"],
        "mask_token": torch.ones(1, 1, 32),
        "rope_embed.periods": torch.ones(4),
    }
    for key, value in renamed(state, ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma")).items():
        if key.endswith("q_bias"):
            at = key.removesuffix("q_bias")
            parts = value, torch.zeros_like(value), state[f"{at}v_bias"]
            found |= {f"{at}qkv.bias": torch.cat(parts), f"{at}qkv.bias_mask": torch.ones(3 * len(value))}
        elif not key.endswith("v_bias") and key != "reg_token":
            found[key] = value
    return found


def as_beit(state):
    """Microsoft's file."""
    index = {f"blocks.{i}.attn.relative_position_index": torch.zeros(5, 5, dtype=torch.long) for i in range(2)}
    return {"model": state | index | {"head.weight": torch.ones(8, 32), "head.bias": torch.ones(8)}}


PUBLISHED = {
    "eva02": ("eva", {}, as_eva02),
    "EVA-CLIP": ("eva", {}, as_openclip),
    "DINOv3": ("eva", {"model_name": "vit_small_patch16_dinov3", "img_size": 32}, as_dinov3),
    "beit": ("beit", {}, as_beit),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_files_are_read_under_the_names_of_their_authors(kind, small, tmp_path):
    family, arguments, written = PUBLISHED[kind]
    model = small(family, num_classes=0, **arguments)
    wanted = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(written(wanted), tmp_path / "weights.pth")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    load_file(get_family(family), model, kind, tmp_path / "weights.pth")
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_tables_of_positions_are_fitted_to_another_image_size(small, tmp_path):
    model, larger = small("beit", num_classes=0), small("beit", num_classes=0, img_size=48)
    own = model.blocks[0].attn.relative_position_bias_table
    with torch.no_grad():
        own.copy_(torch.linspace(-1, 1, len(own))[:, None].expand_as(own))
    torch.save(as_beit(model.state_dict()), tmp_path / "weights.pth")
    load_file(get_family("beit"), larger, "beit", tmp_path / "weights.pth")
    table = larger.blocks[0].attn.relative_position_bias_table
    assert len(table) == (2 * 3 - 1) ** 2 + 3 != len(own)
    assert torch.equal(table[-3:], own[-3:])  # of the class token
    torch.testing.assert_close(table[[0, -4]], own[[0, -4]], rtol=0, atol=0.1)  # the farthest places
