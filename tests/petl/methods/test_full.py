from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, Placement, apply, remove, tuned_state_dict

FULL = Design.of([Placement("full")])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_everything_is_trained_and_stored_once(kind, make):
    model = make(kind)
    own = {path for path, _ in model.named_parameters()}
    apply(model, FULL)
    assert all(p.requires_grad for p in model.parameters())
    stored = [key.removeprefix("full.") for key in tuned_state_dict(model)]
    assert sorted(stored) == sorted(own)


def test_remove_undoes_training_of_every_tensor(make, train):
    model = make("dinov2")
    before = {path: p.clone() for path, p in model.named_parameters()}
    apply(model, FULL)
    train(model)
    assert not any(torch.equal(p, before[path]) for path, p in model.named_parameters() if path in before)
    remove(model)
    assert all(torch.equal(p, before[path]) for path, p in model.named_parameters())
