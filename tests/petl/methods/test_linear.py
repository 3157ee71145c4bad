from __future__ import annotations

import torch

from petlas.petl import Design, Placement, apply, count_params, count_tuned, load_adapter, merge, remove, save_adapter

LINEAR = Design.of([Placement("linear")])


def test_it_says_the_same_as_the_empty_design(make):
    for design in (LINEAR, Design()):
        model = apply(make("gap"), design)
        assert {path for path, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
        assert count_tuned(model) == count_params(design, model) == 0
        assert set(model.petl.state_dict()) == {"head.weight", "head.bias"}


def test_it_can_be_trained_saved_merged_and_removed(make, train, images, tmp_path):
    model = make("gap")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    apply(model, LINEAR)
    train(model)
    with torch.no_grad():
        expected = model(images(model))
        save_adapter(model, tmp_path / "a.safetensors")
        loaded = load_adapter(tmp_path / "a.safetensors", make("gap"))
        assert torch.equal(loaded(images(model)), expected)
        assert torch.equal(merge(loaded)(images(model)), expected)
    remove(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_backbone_gets_no_gradient(make, images):
    model = apply(make("gap"), LINEAR)
    features = model.forward_features(images(model))
    assert not features.requires_grad
