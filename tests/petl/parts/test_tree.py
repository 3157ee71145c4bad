from __future__ import annotations

import torch
from torch import nn

from petlas.petl.parts.tree import Tree


def test_a_tree_keeps_modules_and_parameters_under_dotted_paths():
    tree, linear = Tree(), nn.Linear(2, 2)
    tree.add("a.b.linear", linear)
    tree.add("a.c", nn.Parameter(torch.ones(1)))
    tree.add("top", nn.Parameter(torch.ones(1)))
    assert set(tree.state_dict()) == {"a.b.linear.weight", "a.b.linear.bias", "a.c", "top"}
    assert tree.get_submodule("a.b.linear") is linear


def test_what_is_taken_out_of_a_tree_is_no_longer_in_it():
    tree, parameter = Tree(), nn.Parameter(torch.ones(1))
    tree.add("a.b", parameter)
    assert tree.take("a.b") is parameter
    assert not tree.state_dict()
