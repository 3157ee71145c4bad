"""Blocks are of one kind where they differ in the numbers in their tensors alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from petlas.petl import Design, Placement, apply
from petlas.petl.kind import Kind, UnlikeError
from petlas.petl.parts.handles import Hook


def design(**options: Any) -> Design:
    return Design.of(Placement("lora", block, 2 + block, tuple(options.items())) for block in range(2))


def test_blocks_of_one_design_and_of_others_are_of_one_kind_whatever_their_sizes(make: Callable[..., Any]) -> None:
    first, second = (apply(make("plain"), design()).train() for _ in range(2))
    kinds = [Kind(block) for model in (first, second) for block in model.blocks[:2]]
    assert len({kind.key for kind in kinds}) == 1
    assert [kind.sizes[0] for kind in kinds] == [(2, 2), (3, 3)] * 2
    assert list(kinds[0].tensors) == list(kinds[3].tensors)
    parts = (first.blocks[0], first.petl.get_submodule("lora.blocks.0"))
    own = {id(parameter) for part in parts for parameter in part.parameters()}
    assert {id(tensor) for tensor in kinds[0].tensors.values()} == own


def test_whatever_else_differs_makes_another_kind(make: Callable[..., Any]) -> None:
    plain = apply(make("plain"), design()).train()
    others = [
        plain.blocks[2],  # without a module
        apply(make("plain"), design(alpha=3.0)).train().blocks[0],
        apply(make("plain"), design(dropout=0.5)).train().blocks[0],
        apply(make("plain"), design(targets="q,k")).train().blocks[0],
        apply(make("plain"), design()).eval().blocks[0],
        apply(make("plain").double(), design()).train().blocks[0],
        apply(make("plain"), Design.of([*design().placements, Placement("bitfit")])).train().blocks[0],
        apply(make("plain", drop_path_rate=0.3), design()).train().blocks[1],
    ]
    assert len({Kind(block).key for block in (plain.blocks[0], *others)}) == 1 + len(others)


def test_a_copy_holds_no_values_and_leaves_the_block_alone(make: Callable[..., Any]) -> None:
    block = apply(make("plain"), design()).blocks[0]
    kind = Kind(block)
    roots, elastic = kind.copy()
    assert all(tensor.device.type == "meta" for root in roots for tensor in root.parameters())
    assert {type(module) for module in elastic} == {type(module) for module in kind.elastic}
    assert not any(tensor.device.type == "meta" for tensor in block.parameters())


def _add(value: Any, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output


@pytest.mark.parametrize("value", [torch.ones(2), object(), lambda: _add])
def test_what_a_key_cannot_hold_is_refused(make: Callable[..., Any], value: Any) -> None:
    block = make("plain").blocks[0]
    held = (lambda: value) if callable(value) else value
    Hook(block.attn, "out", partial(_add, held))
    with pytest.raises(UnlikeError, match="it uses a"):
        Kind(block)


def test_a_block_that_keeps_something_of_a_call_has_changed(make: Callable[..., Any]) -> None:
    block = make("plain").blocks[0]
    kind = Kind(block)
    assert not kind.changed
    block.attn.seen = torch.ones(1)
    assert kind.changed
