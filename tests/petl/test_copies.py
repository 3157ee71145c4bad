from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from petlas.petl.copies import copied


def described(value, seen):
    """What a model consists of, with numbers for its objects in the order in which they are met."""
    if isinstance(value, nn.Module | dict | list) or (callable(value) and hasattr(value, "__dict__")):
        if id(value) in seen:
            return seen[id(value)]
        seen[id(value)] = len(seen)
    if isinstance(value, torch.Tensor):
        return type(value), value.requires_grad, value.tolist(), seen.setdefault(id(value), len(seen))
    if isinstance(value, nn.Module):
        return type(value), described(vars(value), seen)
    if isinstance(value, dict):
        return type(value), [(str(key), described(inner, seen)) for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [described(inner, seen) for inner in value]
    return value if isinstance(value, int | float | str | None) else type(value)


def objects(model):
    return {id(t) for t in (*model.parameters(), *model.buffers())} | {id(module) for module in model.modules()}


@pytest.mark.parametrize("design", [None, "adapter", "vpt", "lst", "bitfit", "sparse"])
@pytest.mark.parametrize("kind", ["plain", "dinov2"])
def test_a_copy_is_what_deepcopy_makes(design, kind, make, tuned, images):
    model = tuned(design, kind) if design else make(kind)
    twin, expected = copied(model), copy.deepcopy(model)
    assert described(twin, {}) == described(expected, {})
    assert not objects(twin) & objects(model)
    with torch.no_grad():
        assert torch.equal(twin(images(model)), model(images(model)))
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(expected(images(model)), model(images(model)))


class Own(nn.Linear):
    def __deepcopy__(self, memo):
        return Own(3, 1)


def test_what_is_shared_stays_shared_and_what_copies_itself_does():
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"one": layer, "same": layer, "own": Own(2, 2)})
    model.register_module("nothing", None)
    model.register_parameter("weight", layer.weight)
    model.listed = [layer]
    twin = copied(model)
    assert twin["one"] is twin["same"] is twin.listed[0] is not layer
    assert twin.weight is twin["one"].weight is not layer.weight
    assert twin["own"].in_features == 3 and twin.nothing is None


def test_what_is_known_takes_the_place_of_copies():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    twin = copied(model, {id(model[0].weight): model[0].weight})
    assert twin[0].weight is model[0].weight and twin[0].bias is not model[0].bias
