from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from petlas.petl import BackboneError, shape_by_name, shape_of
from petlas.petl.shape import block_tensors


def test_the_shape_of_vit_base_is_the_known_one():
    shape = shape_by_name("vit_base_patch16_224")
    assert (shape.width, shape.depth, shape.patch, shape.grid, shape.prefix_tokens) == (768, 12, (16, 16), (14, 14), 1)
    assert shape.params == 85_798_656
    assert shape.name.split(".")[0] == "vit_base_patch16_224"
    assert len(shape.layers) == 12 * 6 + 2


def test_the_layers_stand_in_the_order_of_the_forward_pass():
    layers = shape_by_name("vit_base_patch16_224").layers
    assert [layer.path for layer in layers[:7]] == [
        "patch_embed.proj",
        "blocks.0.norm1",
        "blocks.0.attn.qkv",
        "blocks.0.attn.proj",
        "blocks.0.norm2",
        "blocks.0.mlp.fc1",
        "blocks.0.mlp.fc2",
    ]
    assert layers[-1].path == "norm"
    assert [layer.kind for layer in layers[:4]] == ["conv", "norm", "linear", "linear"]


def test_layers_of_block_1_leaves_out_blocks_10_and_11():
    shape = shape_by_name("vit_base_patch16_224")
    assert {layer.path.rsplit(".", 2)[0] for layer in shape.layers_of(1)} <= {"blocks.1", "blocks.1.attn"} | {
        "blocks",
        "blocks.1.mlp",
    }
    assert len(shape.layers_of(1)) == 6
    assert shape.layers_of(None) == shape.layers


def test_a_layer_is_found_by_its_path():
    layer = shape_by_name("vit_base_patch16_224").layer("blocks.3.attn.qkv")
    assert (layer.inputs, layer.outputs, layer.bias, layer.kind) == (768, 2304, True, "linear")


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_the_layers_hold_every_weight_and_bias_but_the_tokens_and_gammas(kind, make):
    model = make(kind)
    shape = shape_of(model)
    paths = {layer.path for layer in shape.layers}
    others = {p for p, _ in model.named_parameters() if p.rpartition(".")[0] not in paths and not p.startswith("head")}
    assert all(path in ("cls_token", "reg_token", "pos_embed") or path.endswith("gamma") for path in others)
    for layer in shape.layers:
        module = model.get_submodule(layer.path)
        assert module.weight.shape[0] == layer.outputs
        assert (module.bias is not None) is layer.bias
    assert shape.params == sum(p.numel() for path, p in model.named_parameters() if not path.startswith("head."))
    assert shape.prefix_tokens == {"plain": 1, "dinov2": 5, "gap": 0}[kind]


def test_the_shape_by_name_is_the_shape_of_the_model(make):
    whole = make("plain", depth=12)
    assert shape_by_name("vit_tiny_patch16_224", 32) == shape_of(whole)


def test_the_head_is_no_part_of_the_shape(make):
    assert shape_of(make("gap")) == shape_of(make("gap", num_classes=0))


def test_the_shape_by_name_makes_no_weights():
    before = torch.empty(0).device
    assert shape_by_name("vit_giant_patch14_dinov2").params > 1e9
    assert torch.empty(0).device == before


def test_another_image_size_changes_the_grid_and_the_position_embeddings_only():
    small, large = shape_by_name("vit_tiny_patch16_224", 32), shape_by_name("vit_tiny_patch16_224")
    assert small.grid == (2, 2) and small.layers == large.layers
    assert large.params - small.params == (14 * 14 - 2 * 2) * 192


def test_the_shape_of_something_else_is_refused():
    with pytest.raises(BackboneError, match="must be a plain pre-norm timm VisionTransformer"):
        shape_of(torch.nn.Linear(2, 2))


def test_a_layer_names_its_parameters():
    shape = shape_by_name("vit_base_patch16_224")
    assert shape.layer("norm").parameters == ("norm.weight", "norm.bias")
    assert replace(shape.layer("norm"), bias=False).parameters == ("norm.weight",)


@pytest.mark.parametrize(("kind", "scaled"), [("plain", False), ("dinov2", True)])
def test_layer_scale_and_the_width_of_the_attention_are_those_of_the_blocks(kind, scaled, make):
    model = make(kind)
    shape = shape_of(model)
    assert shape.layer_scale is scaled
    assert shape.blocks[1].attention_width == model.blocks[1].attn.attn_dim


def test_the_tensors_of_vit_base_have_the_entries_that_spt_ranks():
    shape = shape_by_name("vit_base_patch16_224")
    tensors = block_tensors(shape, 10)
    assert [tensor.name for tensor in tensors] == [
        *("norm1.weight", "norm1.bias", "q", "k", "v", "q.bias", "k.bias", "v.bias", "proj", "proj.bias"),
        *("norm2.weight", "norm2.bias", "fc1", "fc1.bias", "fc2", "fc2.bias"),
    ]
    entries = sum(tensor.entries for block in range(12) for tensor in block_tensors(shape, block))
    assert entries + 2 * 768 == 85_056_000  # SPT ranks the last norm too


@pytest.mark.parametrize(("kind", "arguments"), [("plain", {"mlp_ratio": 2.5}), ("dinov2", {}), ("gap", {})])
def test_the_tensors_of_a_block_cover_its_parameters_once(kind, arguments, make):
    model = make(kind, **arguments, qkv_bias=kind != "gap")
    covered = {path: torch.zeros(p.numel()) for path, p in model.blocks[1].named_parameters(prefix="blocks.1")}
    for tensor in block_tensors(shape_of(model), 1):
        parameter = model.get_parameter(tensor.path)
        covered[tensor.path][tensor.start : tensor.start + tensor.entries] += 1
        assert tensor.is_vector == (parameter.dim() == 1)
        assert tensor.columns == parameter.shape[-1] or tensor.name in ("q.bias", "k.bias", "v.bias")
        if tensor.name in "qkv":
            third = "qkv".index(tensor.name)
            rows = parameter.flatten()[tensor.start : tensor.start + tensor.entries].view(tensor.rows, tensor.columns)
            assert torch.equal(rows, parameter.chunk(3)[third])
    assert all(bool((times == 1).all()) for times in covered.values())


def test_a_parameter_has_the_same_key_whatever_a_family_calls_its_blocks():
    shape = replace(shape_by_name("vit_tiny_patch16_224"), block_paths=("stages.0.a", "stages.1.a"))
    assert shape.key("stages.1.a.norm.weight") == "blocks.1.norm.weight"
    assert shape.key("stages.10.weight") == "stages.10.weight"
