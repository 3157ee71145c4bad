from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch

import petlas.petl
from petlas.petl import (
    BackboneError,
    Design,
    DesignError,
    Placement,
    apply,
    count_tuned,
    merge,
    remove,
    reset_head,
    tuned_state_dict,
)
from petlas.petl.methods.lora import LoRA
from petlas.petl.tuning import tuning_of

LORA = Design.of([Placement("lora", 0, 2)])
VIT_B = "vit_base_patch16_224"


def test_a_second_design_is_refused(make):
    model = apply(make("gap"), LORA)
    with pytest.raises(DesignError, match=r"a model takes one design.*remove"):
        apply(model, LORA)
    assert count_tuned(model) == 4 * 192 * 2


@pytest.mark.parametrize("function", [remove, merge, tuned_state_dict, count_tuned, tuning_of])
def test_a_model_without_a_design_is_refused(function, make):
    with pytest.raises(DesignError, match=r"the model carries no design; call petlas.petl.apply"):
        function(make("gap"))


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_another_architecture_is_refused_and_left_alone(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(BackboneError, match="must be a plain pre-norm timm VisionTransformer"):
        apply(model, LORA)
    assert all(p.requires_grad for p in model.parameters())


def test_apply_and_remove_can_alternate(make, images):
    model = make("gap")
    with torch.no_grad():
        before = model(images(model))
        for design in (LORA, Design(), Design.of([Placement("full")]), LORA):
            assert apply(model, design) is model
            assert torch.equal(model(images(model)), before)
            remove(model)
            assert torch.equal(model(images(model)), before)


def test_merging_and_applying_again_starts_from_the_merged_model(tuned, images):
    model = merge(tuned("lora", "gap"))
    with torch.no_grad():
        merged = model(images(model))
        apply(model, LORA)
        assert torch.equal(model(images(model)), merged)
        remove(model)
        assert torch.equal(model(images(model)), merged)


def test_the_head_is_trained_kept_by_merge_and_restored_by_remove(make, train):
    for undo, kept in ((merge, True), (remove, False)):
        model = make("gap")
        before = model.head.weight.clone()
        apply(model, Design())
        train(model)
        trained = model.head.weight.clone()
        assert not torch.equal(trained, before)
        assert torch.equal(undo(model).head.weight, trained if kept else before)


def test_flags_that_the_user_had_set_come_back(make):
    model = make("gap")
    model.pos_embed.requires_grad_(False)
    remove(apply(model, Design.of([Placement("full")])))
    assert {path for path, p in model.named_parameters() if not p.requires_grad} == {"pos_embed"}


def test_stale_gradients_do_not_move_frozen_weights(make, images):
    model = make("gap")
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(images(model)).sum().backward()
    before = model.blocks[0].attn.proj.weight.clone()
    apply(model, LORA)
    model(images(model)).sum().backward()
    optimiser.step()
    assert torch.equal(model.blocks[0].attn.proj.weight, before)


def test_the_models_own_keys_stay_as_they_are(make):
    model = make("dinov2")
    own = list(model.state_dict())
    apply(model, LORA)
    keys = list(model.state_dict())
    assert [key for key in keys if not key.startswith("petl.")] == own
    added = {key.removeprefix("petl.") for key in keys if key.startswith("petl.")}
    assert added | {"head.weight", "head.bias"} == set(tuned_state_dict(model))  # the head is the model's own


def test_the_tuned_state_dict_explains_itself(make):
    placements = [Placement("lora", 1, 2), Placement("vpt", 0, 3), Placement("ssf", 2)]
    state = tuned_state_dict(apply(make("gap"), Design.of(placements)))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["lora.blocks.1.q.down"] == (2, 192)
    assert shapes["lora.blocks.1.v.up"] == (192, 2)
    assert shapes["vpt.blocks.0.tokens"] == (3, 192)
    assert shapes["ssf.blocks.2.mlp.fc1.scale"] == (768,)
    assert shapes["head.weight"] == (5, 192)


def test_a_failure_in_the_middle_leaves_the_model_as_it_was(make, monkeypatch, images):
    model = make("gap")
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def fail(self, block, module):
        yield from original(self, block, module)
        if block.module is model.blocks[2]:
            raise RuntimeError("no more")

    original = LoRA.attach_block
    monkeypatch.setattr(LoRA, "attach_block", fail)
    design = Design.of([Placement("bitfit"), *(Placement("lora", block, 2) for block in range(3))])
    with pytest.raises(RuntimeError, match="no more"):
        apply(model, design)
    assert not hasattr(model, "petl")
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_new_head_on_a_tuned_model_is_refused(make):
    model = apply(make("gap"), LORA)
    with pytest.raises(BackboneError, match="a head is set before a design is applied"):
        reset_head(model, 3)


def test_applying_changes_no_switch_of_torch():
    code = """
import torch._dynamo.config as config, torch
before = (dict(config.get_config_copy()), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
from petlas.petl import Design, Placement, apply, load_backbone
apply(load_backbone("vit_mini_patch16_64"), Design.of([Placement("lora", 0, 2)]))
after = (dict(config.get_config_copy()), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
assert before == after
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_the_owners(training, make):
    model = make("gap").train(training)
    for change in (lambda m: apply(m, LORA), remove, lambda m: merge(apply(m, LORA))):
        change(model)
        assert all(m.training is training for m in model.modules())


def test_a_head_that_was_set_since_stays_when_the_design_is_removed(make):
    model = apply(make("gap"), LORA)
    model.reset_classifier(3)
    head = model.head
    assert remove(model).head is head


def test_the_room_lists_what_it_offers_before_it_is_used():
    code = "import sys, petlas.petl as p; assert set(p.__all__) <= set(dir(p)) and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(hasattr(petlas.petl, name) for name in petlas.petl.__all__)
