from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, DesignError, Placement, apply, count_params, get_method, remove, shape_by_name


def last(blocks):
    return Design.of([Placement("partial", None, blocks)])


@pytest.mark.parametrize(("kind", "norm"), [("plain", "norm."), ("dinov2", "norm."), ("gap", "fc_norm.")])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_last_blocks_and_the_norm_behind_them_are_trained_whole(kind, norm, blocks, make):
    model = make(kind)
    own = [path for path, _ in model.named_parameters()]
    apply(model, last(blocks))
    starts = (*(f"blocks.{i}." for i in range(3 - blocks, 3)), norm, "head.")
    assert [path for path in own if model.get_parameter(path).requires_grad] == [p for p in own if p.startswith(starts)]
    assert any("gamma" in path for path in own if path.startswith(starts)) is (kind == "dinov2")


def test_with_more_than_ten_blocks_the_last_ones_are_still_the_last(make):
    model = apply(make("plain", depth=12), last(2))
    assert {path.split(".")[2] for path, _ in model.petl.named_parameters() if ".blocks." in path} == {"10", "11"}
    state = get_method("partial").sliced(
        model.petl.get_submodule("partial"), [get_method("partial").placed(p) for p in last(1).placements]
    )
    assert {path.split(".")[1] for path in state if path.startswith("blocks.")} == {"11"}
    assert {"norm.weight", "norm.bias"} <= set(state)


def test_the_blocks_before_run_without_gradients(make, images):
    model = apply(make("plain"), last(1))
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    model(images(model))
    assert [output.requires_grad for output in outputs] == [False, False, True]


def test_a_smaller_part_has_the_pretrained_blocks_back_and_keeps_the_trained_ones(tuned, make, images):
    model = tuned(last(3), "dinov2")
    trained = {path: p.clone() for path, p in model.named_parameters(remove_duplicate=False)}
    pretrained = dict(make("dinov2").named_parameters())
    model.petl.connect(model, last(1))
    for path in ("blocks.0.attn.qkv.weight", "blocks.1.ls1.gamma"):
        assert torch.equal(model.get_parameter(path), pretrained[path])
    for path in ("blocks.2.attn.qkv.weight", "blocks.2.ls1.gamma", "norm.weight"):
        assert torch.equal(model.get_parameter(path), trained[path])
    assert not torch.equal(trained["blocks.2.ls1.gamma"], pretrained["blocks.2.ls1.gamma"])
    remove(model)
    assert all(torch.equal(p, pretrained[path]) for path, p in model.named_parameters())


def test_the_counts_on_vit_base_are_those_of_vpt():
    shape, width = shape_by_name("vit_base_patch16_224"), 768
    for blocks in (1, 4, 12):
        assert count_params(last(blocks), shape) == blocks * (12 * width**2 + 13 * width) + 2 * width


def test_more_blocks_than_there_are_are_refused(make):
    with pytest.raises(DesignError, match=r"partial takes at most the 3 blocks of vit_tiny.*, got size=4"):
        apply(make("plain"), last(4))


@pytest.mark.parametrize("other", ["bitfit", "ln_tune"])
def test_beside_a_method_that_trains_the_same_parameters_it_is_refused(other, make):
    model = make("plain")
    design = Design.of([*last(1).placements, Placement(other)])
    with pytest.raises(DesignError, match=rf"blocks.2.norm1.\w+ is by partial and {other}; keep one"):
        count_params(design, model)
