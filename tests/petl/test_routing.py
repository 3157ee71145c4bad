from __future__ import annotations

import torch
from torch import nn

from petlas.petl import Adapters, Design, Placement
from petlas.petl.routing import Flow, Part, Router, parts_of, shapes_of, trained_at_root, unlike


def test_a_design_has_a_part_where_it_acts_and_nowhere_else(make):
    adapters = Adapters(make())
    plain = adapters.twin()
    designs = [Placement("adapter", 1, 2), Placement("lora", 1, 2), Placement("bitfit", 1)]
    for placement in designs:
        adapters.add(placement.method, Design.of([placement]))
    parts = parts_of(plain, {name: adapters[name] for name in adapters})
    found = {name: {path: own[name].whole for path, own in parts.items() if name in own} for name in adapters}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert found == {
        "adapter": {"blocks.1.ls2": False, "head": True},
        "lora": {"blocks.1.attn.qkv": True, "head": True},
        "bitfit": {**{f"blocks.1.{layer}": True for layer in layers}, "blocks.1": True, "head": True},
    }
    assert not any(trained_at_root(plain, adapters[name]) for name in adapters)


def test_each_sees_its_own_rows_in_front_of_a_module_in_it_and_behind_it():
    """Maps may come as several windows of an image: a whole number of rows each."""

    def before(module, args):
        return (args[0] + 1,)

    def behind(module, args, output):
        return output + 100 * args[0]

    flow, sizes = Flow(), []
    own = nn.Module()
    own.forward = lambda x: -x
    parts = {
        "b": Part(nn.Module(), False, (before,), ()),
        "c": Part(own, True, (), ()),
        "e": Part(nn.Module(), False, (), (behind,)),
    }
    router = Router(flow, lambda x: sizes.append(len(x)) or 10 * x, parts, lambda name: torch.no_grad())
    x = torch.ones(12, 1)
    with flow.of((("a", 1), ("b", 1), ("c", 2), ("d", 1), ("e", 1))):
        assert router(x).flatten().tolist() == [10, 10, 20, 20, -1, -1, -1, -1, 10, 10, 110, 110]
    with flow.of((("a", 5), ("d", 1))):
        assert router(x).flatten().tolist() == [10] * 12
    assert sizes == [8, 12] and flow.rows == ()


def test_shapes_differ_where_shared_modules_see_other_tokens(make):
    adapters = Adapters(make())
    plain = adapters.twin()
    for name, placement in {
        "few": Placement("vpt", 2, 1),
        "many": Placement("vpt", 2, 3),
        "lora": Placement("lora", 2, 1),
    }.items():
        adapters.add(name, Design.of([placement]))
    few, many, lora = (shapes_of(plain, adapters[name]) for name in adapters)
    assert (unlike(few, many) or "").startswith("blocks.2.") and (unlike(few, lora) or "").startswith("blocks.2.")
    assert unlike(few, few) is None
    assert lora["blocks.2.attn.qkv"][0] is None  # its own work: what goes in there matters to nobody
    assert lora["blocks.2.attn"][0] == (1, 5, 192)
