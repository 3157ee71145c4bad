from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlas.petl import Design, Placement, Streams, apply, get_method, prefix_of, resume, run_prefix
from petlas.petl.methods import METHODS

SIZED = {"partial": 1, "prefix": 2}
AT_BLOCKS = [name for name in METHODS if get_method(name).in_blocks and "conv.in" not in get_method(name).needs]


def at(name: str, *blocks: int | None) -> list[Placement]:
    return [Placement(name, block, SIZED.get(name, 4) if get_method(name).size_means else None) for block in blocks]


def passed(model: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Logits and gradients of a training pass, whatever was drawn before."""
    torch.manual_seed(3)
    model.train()
    model.zero_grad()
    logits = run()
    logits.square().mean().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def streams_of(model: nn.Module, images: Tensor) -> Streams:
    prefix = prefix_of(model)
    assert prefix
    size = images.shape[-2], images.shape[-1]
    return Streams(prefix, run_prefix(model, images, prefix), size)


def assert_same(model: nn.Module, images: Tensor) -> None:
    streams = streams_of(model, images)
    expected, gradients = passed(model, lambda: model(images))
    found, others = passed(model, lambda: resume(model, streams))
    assert torch.equal(found, expected)
    for name, gradient in gradients.items():
        other = others[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", AT_BLOCKS)
def test_training_from_the_lowest_placement_on_is_the_same_to_the_digit(name: str, tuned: Any, images: Any) -> None:
    model = tuned(Design.of(at(name, 1, 2)))
    prefix = prefix_of(model)
    assert prefix
    assert prefix.blocks == (3 if name == "vqt" else 1)
    assert_same(model, images(model, 3))


@pytest.mark.parametrize(
    ("placements", "blocks", "streams"),
    [
        ([], 3, (3,)),
        (at("linear", None), 3, (3,)),
        (at("partial", None), 2, (2,)),
        (at("lst", None), 3, (0, 1, 2, 3)),
        (at("last", None), 3, (0, 1, 2, 3)),
        (at("dtl", None), 2, (0, 1, 2)),
        ([*at("dtl", None), *at("lora", 1)], 1, (0, 1)),
        (at("vqt", 1), 3, (1, 2, 3)),
        ([*at("vqt", 0), *at("adapter", 2)], 2, (0, 1, 2)),
        ([*at("vpt", 2), *at("lora", 1)], 1, (1,)),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "gap"])
def test_what_reads_between_the_blocks_sees_what_it_would_see(
    kind: str, placements: list[Placement], blocks: int, streams: tuple[int, ...], tuned: Any, images: Any
) -> None:
    model = tuned(Design.of(placements), kind)
    prefix = prefix_of(model)
    assert prefix
    assert (prefix.blocks, prefix.streams) == (blocks, streams)
    assert_same(model, images(model, 3))


@pytest.mark.parametrize(
    "placements",
    [at("lora", 0), at("bitfit", None), at("ssf", None), at("full", None), at("vpt_shallow", None), at("hst", None)],
)
def test_nothing_stands_in_where_the_first_block_or_the_embedding_changes(
    placements: list[Placement], tuned: Any
) -> None:
    assert prefix_of(tuned(Design.of(placements))) is None


def test_blocks_that_draw_random_numbers_are_no_part_of_it(make: Any) -> None:
    model = apply(make(drop_path_rate=0.3), Design.of(at("lora", 2)))
    prefix = prefix_of(model)
    assert prefix
    assert prefix.blocks == 1  # timm's rates rise from 0 at the first block
    assert prefix_of(apply(make(pos_drop_rate=0.1), Design.of(at("lora", 2)))) is None
    assert prefix_of(apply(make(attn_drop_rate=0.1), Design.of(at("lora", 2)))) is None


def test_running_the_blocks_leaves_no_trace(tuned: Any, images: Any) -> None:
    """Neither random numbers nor what side networks keep of a pass."""
    model = tuned(Design.of([*at("vqt", 0, 1), *at("lora", 2)]))
    pixels = images(model, 3)
    before, _ = passed(model, lambda: model(pixels))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    streams_of(model, pixels)
    assert torch.equal(torch.get_rng_state(), state)
    after, _ = passed(model, lambda: model(pixels))
    assert torch.equal(before, after)


def test_a_deeper_stream_follows_from_any_other(tuned: Any, images: Any) -> None:
    model = tuned(Design.of(at("lst", None)))
    pixels, prefix = images(model, 3), prefix_of(model)
    assert prefix
    known = run_prefix(model, pixels, prefix)
    assert sorted(known) == [0, 1, 2, 3]
    again = run_prefix(model, known[1], prefix, start=1)
    assert sorted(again) == [1, 2, 3]
    assert all(torch.equal(again[number], known[number]) for number in again)
