import copy

import torch
from torch import nn

from petlas.petl.shared_weights import hold_own_weights, share_weights


def test_a_model_that_shares_gets_weights_of_its_own_and_keeps_its_ties():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    before = model[0].weight
    hold_own_weights(model)
    assert model[0].weight is before
    share_weights(model)
    twin = copy.deepcopy(model)
    hold_own_weights(model)
    assert model[0].weight is model[1].weight is not before
    assert torch.equal(model[0].weight, before)
    own = twin[0].weight
    hold_own_weights(twin)
    assert twin[0].weight is not own
