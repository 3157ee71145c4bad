from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from petlas.petl import Site


def test_sites_read_change_and_go_around_until_the_handle_is_removed():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    before, seen = layer(x), []
    entering, leaving = Site("a", layer, "in", 2), Site("a", layer, "out", 2)
    handles = [entering.read(seen.append), entering.change(lambda a: 2 * a), leaving.around(lambda a, y: y - a)]
    assert torch.equal(layer(x), nn.functional.linear(2 * x, layer.weight, layer.bias) - 2 * x)
    assert torch.equal(seen[0], x)
    for handle in handles:
        handle.remove()
    assert torch.equal(layer(x), before)


def test_what_is_registered_at_a_site_is_copied_and_pickled_with_the_model():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    Site("a", model[0], "out", 2).change(model[1])
    x = torch.ones(1, 2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin[0](x), model[0](x))
        nn.init.zeros_(twin[1].weight)
        nn.init.zeros_(twin[1].bias)
        assert not twin[0](x).any() and model[0](x).any()


def test_what_replaces_a_layer_is_there_until_it_is_removed_and_only_an_untouched_layer_can_take_it():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    before, site = layer(x), Site("a", layer, "out", 2)
    handle = site.replace(lambda x: 2 * x)
    assert torch.equal(layer(x), 2 * x) and not site.untouched
    later = site.change(lambda y: y + 1)
    assert torch.equal(layer(x), 2 * x + 1)
    later.remove(), handle.remove()
    assert site.untouched and torch.equal(layer(x), before)
