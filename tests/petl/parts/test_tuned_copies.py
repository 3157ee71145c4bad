from __future__ import annotations

import pytest
import torch
from torch import nn

from petlas.petl import DesignError
from petlas.petl.parts.tuned_copies import TunedCopies


def test_tuned_parameters_stand_in_the_model_and_the_originals_come_back():
    model = nn.Linear(2, 2).requires_grad_(False)
    before = model.weight.clone()
    copies = TunedCopies(["weight"])
    copies.place(model)
    assert model.weight.requires_grad and not model.bias.requires_grad
    assert copies.parameter("weight") is model.weight
    assert not copies.state_dict()  # each tensor is registered once
    with torch.no_grad():
        model.weight.zero_()
    copies.remove()
    assert torch.equal(model.weight, before)


def test_kept_values_stay():
    model = nn.Linear(2, 2).requires_grad_(False)
    copies = TunedCopies(["weight"])
    copies.place(model)
    with torch.no_grad():
        model.weight.zero_()
    copies.keep()
    copies.remove()
    assert not model.weight.any()


def test_a_parameter_tuned_twice_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    TunedCopies(["weight"]).place(model)
    with pytest.raises(DesignError, match="tuned by one method only, and weight is tuned twice"):
        TunedCopies(["bias", "weight"]).place(model)


def test_a_copy_that_is_put_back_has_the_values_that_it_was_trained_to():
    model = nn.Linear(2, 2).requires_grad_(False)
    copies = TunedCopies({"weight": "kept"})
    copies.place(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    copies.remove()
    assert set(copies.state_dict()) == {"kept"} and (copies.values()["kept"] == 3).all()
    copies.place(model)
    assert (model.weight == 3).all() and not copies.state_dict()
