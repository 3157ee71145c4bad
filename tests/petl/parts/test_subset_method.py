from __future__ import annotations

import torch

from petlas.petl import Design, Placement, apply, remove


def test_the_backbones_own_parameters_are_tuned_in_copies_of_the_chosen_blocks(make):
    model = make("gap")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply(model, Design.of([Placement("bitfit", 1)]))
    tuned = dict(model.petl.get_submodule("bitfit").values())
    assert tuned
    assert all(name.startswith("blocks.1.") for name in tuned)
    with torch.no_grad():
        for value in tuned.values():
            value.add_(1)
    remove(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
