"""Compiled blocks compute what blocks compute, and designs share their graphs."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlas.petl import CompiledBlocks, Design, Placement, apply, can_compile, frozen_casts, graphs_kept

pytestmark = pytest.mark.skipif(not can_compile(), reason="this torch mixes up graphs")

Graphs = list[Any]


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    """Those that the backend `seen` of a test has made."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def blocks(graphs: Graphs, told: list[str]) -> CompiledBlocks:
    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    return CompiledBlocks(told.append, backend)


def step(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The gradients of a step of training."""
    model.zero_grad()
    torch.manual_seed(3)
    model.train()(images).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, gradient in some.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def mixed(rank: int, width: int, prompts: int) -> Design:
    sizes = {"lora": rank, "adapter": width, "vpt": prompts}
    return Design.of(Placement(method, block, size) for method, size in sizes.items() for block in range(2))


def test_designs_of_all_sizes_share_the_graphs_of_their_kinds_of_blocks(
    graphs: Graphs, make: Callable[..., nn.Module], shake: Any, images: Any
) -> None:
    told: list[str] = []
    compiled = blocks(graphs, told)
    made = []
    for sizes in ((4, 6, 8), (3, 7, 9), (11, 5, 10)):
        model = make("plain", depth=2)
        with graphs_kept():
            apply(model, mixed(*sizes))
        shake(model)
        expected = step(model, images(model))
        with compiled.of(model):
            found = step(model, images(model))
        same(expected, found)
        made.append(len(graphs))
    assert not told
    # A graph for the first block, whose input takes no gradient, one for all others, and both once more for all sizes.
    assert made == [2, 4, 4]
    assert "forward" not in vars(model.blocks[0])


def test_a_block_that_counts_with_its_size_has_a_graph_of_its_own(
    graphs: Graphs, make: Callable[..., nn.Module], shake: Any, images: Any
) -> None:
    compiled = blocks(graphs, told := [])
    for rank in (4, 2):
        model = make("plain", depth=1)
        with graphs_kept():
            apply(model, Design.of([Placement("lora", 0, rank, (("alpha", 8.0),))]))
        shake(model)
        expected = step(model, images(model))
        with compiled.of(model):
            same(expected, step(model, images(model)))
    assert len(graphs) == 2 and not told


def test_what_is_drawn_in_a_block_is_drawn_as_without_a_graph(
    graphs: Graphs, make: Callable[..., nn.Module], shake: Any, images: Any
) -> None:
    model = make("plain", depth=1, drop_path_rate=0.5)
    apply(model, Design.of([Placement("adapter", 0, 4, (("dropout", 0.5),))]))
    shake(model)
    expected = step(model, images(model))
    with blocks(graphs, told := []).of(model):
        same(expected, step(model, images(model)))
    assert graphs and not told


def test_under_autocast_graphs_are_shared_while_other_tensors_stand_in_for_frozen_weights(
    graphs: Graphs, make: Callable[..., nn.Module], shake: Any, images: Any
) -> None:
    model = make("plain", depth=3)
    apply(model, Design.of(Placement("adapter", i, 4) for i in range(3)))
    shake(model)

    def cast() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16), frozen_casts(model)():
            return step(model, images(model))

    expected = cast()
    with blocks(graphs, told := []).of(model):
        found = cast()
    assert len(graphs) == 2 and not told
    given = [node.meta["example_value"] for node in graphs[0].graph.nodes if node.op == "placeholder"]
    assert {tuple(t.shape) for t in given if t.dtype is torch.bfloat16} >= {(576, 192), (576,), (768, 192), (192, 768)}
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.05 * gradient.norm(), name


def test_where_a_compiler_fails_blocks_run_as_they_are_and_one_line_says_so(
    graphs: Graphs, make: Callable[..., nn.Module], shake: Any, images: Any
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler here\nlong trace")

    model = make("plain", depth=2)
    apply(model, Design.of([Placement("adapter", i, 4) for i in range(2)]))
    shake(model)
    expected = step(model, images(model))
    with CompiledBlocks((told := []).append, backend).of(model):
        found = step(model, images(model))
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)
    assert len(told) == 1 and "no C++ compiler here" in told[0] and "\n" not in told[0]


def test_a_graph_that_computes_something_else_is_not_used(
    graphs: Graphs, make: Callable[..., nn.Module], shake: Any, images: Any
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        return lambda *args: tuple(2 * found for found in graph(*args))

    model = make("plain", depth=1)
    apply(model, Design.of([Placement("adapter", 0, 4)]))
    shake(model)
    expected = step(model, images(model))
    with CompiledBlocks((told := []).append, backend).of(model):
        same(expected, step(model, images(model)))
    assert told == ["a graph computes something else than its block"]


def test_without_gradients_blocks_run_as_they_are_to_the_digit(
    graphs: Graphs, make: Callable[..., nn.Module], images: Any
) -> None:
    model = apply(make("plain", depth=1), Design.of([Placement("adapter", 0, 4)]))
    with blocks(graphs, []).of(model), torch.no_grad():
        model(images(model))
    assert not graphs
