from __future__ import annotations

import torch
from torch import nn

from petlas.petl.parts.elastic import Elastic


class Growing(Elastic):
    axes = {"rows": 0, "columns": 1}

    def __init__(self, size):
        super().__init__(size)
        self.rows = nn.Parameter(torch.arange(3.0 * size).view(size, 3))
        self.columns = nn.Parameter(torch.arange(3.0 * size).view(3, size))
        self.fixed = nn.Parameter(torch.ones(3))


def test_narrowing_takes_the_first_slices_of_each_axis():
    module = Growing(4)
    assert module.part("rows") is module.rows
    module.narrow(2)
    assert torch.equal(module.part("rows"), module.rows[:2])
    assert torch.equal(module.part("columns"), module.columns[:, :2])
    state = module.sliced_state(3)
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "rows": (3, 3),
        "columns": (3, 3),
        "fixed": (3,),
    }
    Growing(3).load_state_dict(state)


def test_gradients_of_a_narrowed_module_reach_the_active_slices_only():
    module = Growing(4)
    module.narrow(2)
    module.part("rows").sum().backward()
    assert torch.equal(module.rows.grad.sum(1), torch.tensor([3.0, 3.0, 0.0, 0.0]))
