from __future__ import annotations

import torch
from torch import nn

from petlas.petl.parts.handles import ForwardOverride, Hook, Inside, bare_forward, hooks_of, replaced, untouched


def test_a_module_computes_the_other_function_with_its_hooks_around_it_until_it_is_removed():
    layer, x, seen = nn.Linear(2, 2), torch.ones(1, 2), []
    before = layer(x)
    layer.register_forward_hook(lambda _, __, output: seen.append(output))
    override = ForwardOverride(layer, lambda x: 2 * x)
    assert torch.equal(layer(x), 2 * x) and torch.equal(seen[0], 2 * x)
    override.remove()
    assert torch.equal(layer(x), before)


def test_a_module_is_untouched_before_anything_is_attached_and_after_all_is_removed():
    layer = nn.Linear(2, 2)
    assert untouched(layer)
    handles = [Hook(layer, "out", print) for _ in range(2)]
    for handle in handles:
        assert not untouched(layer)
        handle.remove()
    assert untouched(layer)
    override = ForwardOverride(layer, lambda x: x)
    assert not untouched(layer)
    override.remove()
    assert untouched(layer)


def test_the_bare_forward_is_without_what_acts_on_the_output_but_with_other_weights():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    before = layer(x)
    inside = Inside(layer, lambda x: 2 * x)
    assert torch.equal(layer(x), 2 * x) and torch.equal(bare_forward(layer)(x), before)
    inside.remove()
    assert torch.equal(layer(x), before) and untouched(layer)
    ForwardOverride(layer, lambda x: 3 * x)
    assert torch.equal(bare_forward(layer)(x), 3 * x)


def test_a_module_knows_its_hooks_in_the_order_in_which_torch_runs_them():
    layer, ran = nn.Linear(2, 2), []
    functions = [lambda *_, n=n: ran.append(n) for n in range(5)]
    sides = (("in", False), ("out", False), ("in", True), ("out", True), ("in", False))
    hooks = [Hook(layer, side, function, first) for function, (side, first) in zip(functions, sides, strict=True)]
    layer(torch.ones(1, 2))
    known = [*hooks_of(layer, "in"), *hooks_of(layer, "out")]
    assert [functions.index(function) for function in known] == ran == [2, 0, 4, 3, 1]
    hooks[2].remove()
    assert hooks_of(layer, "in") == (functions[0], functions[4]) and not replaced(layer)
