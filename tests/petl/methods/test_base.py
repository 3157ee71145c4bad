from __future__ import annotations

import pytest
import torch
from torch import nn

from petlas.petl import Design, DesignError, Placement, apply, get_method, shape_of
from petlas.petl.methods.base import Adopted, Elastic, Tree


class Growing(Elastic):
    axes = {"rows": 0, "columns": 1}

    def __init__(self, size):
        super().__init__(size)
        self.rows = nn.Parameter(torch.arange(3.0 * size).view(size, 3))
        self.columns = nn.Parameter(torch.arange(3.0 * size).view(3, size))
        self.fixed = nn.Parameter(torch.ones(3))


def test_a_tree_keeps_modules_and_parameters_under_dotted_paths():
    tree, linear = Tree(), nn.Linear(2, 2)
    tree.add("a.b.linear", linear)
    tree.add("a.c", nn.Parameter(torch.ones(1)))
    tree.add("top", nn.Parameter(torch.ones(1)))
    assert set(tree.state_dict()) == {"a.b.linear.weight", "a.b.linear.bias", "a.c", "top"}
    assert tree.get_submodule("a.b.linear") is linear


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


def test_adopted_parameters_are_shared_and_come_back():
    model = nn.Linear(2, 2).requires_grad_(False)
    before = model.weight.clone()
    adopted = Adopted(["weight"])
    adopted.adopt(model)
    assert model.weight.requires_grad and not model.bias.requires_grad
    assert adopted.get_parameter("weight") is model.weight
    with torch.no_grad():
        model.weight.zero_()
    adopted.remove()
    assert torch.equal(model.weight, before)


def test_kept_values_stay():
    model = nn.Linear(2, 2).requires_grad_(False)
    adopted = Adopted(["weight"])
    adopted.adopt(model)
    with torch.no_grad():
        model.weight.zero_()
    adopted.keep()
    adopted.remove()
    assert not model.weight.any()


def test_a_parameter_tuned_twice_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    Adopted(["weight"]).adopt(model)
    with pytest.raises(DesignError, match="tuned by one method only, and weight is tuned twice"):
        Adopted(["bias", "weight"]).adopt(model)


def test_a_baseline_covers_the_whole_backbone_where_it_can(make):
    shape = shape_of(make("gap"))
    assert get_method("ssf").baseline(shape, None) == (Placement("ssf"),)
    assert get_method("lora").baseline(shape, 4) == tuple(Placement("lora", block, 4) for block in range(3))


def test_options_fall_back_to_the_methods_defaults():
    method = get_method("adaptformer")
    assert method.option(Placement("adaptformer", 0, 4), "scale") == 0.1
    assert method.option(Placement("adaptformer", 0, 4, {"scale": 2}), "scale") == 2


def test_placements_of_one_method_may_differ_in_size_and_options(make, images):
    design = Design.of([Placement("adaptformer", 0, 2, {"scale": 2.0}), Placement("adaptformer", 2, 5)])
    model = apply(make("gap"), design)
    modules = model.petl.get_submodule("adaptformer.blocks")
    assert [(m.bottleneck.size, m.scale) for m in modules.children()] == [(2, 2.0), (5, 0.1)]
    assert model(images(model)).isfinite().all()
