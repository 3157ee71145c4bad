from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, DesignError, Placement, apply, count_params, get_method
from petlas.petl.parts.side import DetachedSide, Side, attend

EVERY = [("lst", 4), ("last", 4), ("dtl", 2), ("dtl_plus", 2), ("hst", None)]


def design(*placements):
    return Design.of(Placement(*p) for p in placements)


def test_a_side_network_gives_away_what_it_kept_and_keeps_nothing_when_closed():
    side, z = Side(), torch.ones(1)
    side.open(z)
    side.keep(z)
    assert side.close() == [z]
    side.keep(z)
    assert side._kept is None
    side.open(z)
    assert side.close() == []


def test_a_detached_side_network_reads_what_enters_and_what_leaves_each_block(make, images):
    model, side = make("dinov2"), DetachedSide()
    handles = list(side.attach(model))
    entered, left = [], []
    model.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: left.append(output))
    model(images(model))
    kept = side.close()
    assert all(torch.equal(a, b) for a, b in zip(kept, entered + left, strict=True))
    assert len(kept) == 4 and not any(z.requires_grad for z in kept) and left[-1].requires_grad
    for handle in handles:
        handle.remove()
    model(images(model))
    assert side._kept is None


def test_the_first_channels_of_an_attention_are_a_narrower_attention():
    q, k, v = torch.randn(3, 2, 5, 20, dtype=torch.float64)
    heads = []
    for part in (slice(0, 8), slice(8, 16), slice(16, 20)):
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    expected = torch.cat(heads, dim=-1)
    torch.testing.assert_close(attend(q, k, v, 8), expected)
    torch.testing.assert_close(attend(q[..., :16], k[..., :16], v[..., :16], 8), expected[..., :16])
    partly = expected.clone()
    partly[..., 8:11] = (q[..., 8:11] @ k[..., 8:11].transpose(1, 2) / 8**0.5).softmax(-1) @ v[..., 8:11]
    torch.testing.assert_close(attend(q[..., :11], k[..., :11], v[..., :11], 8), partly[..., :11])


@pytest.mark.parametrize(("name", "size"), EVERY)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_kept_from_one_pass_to_the_next(name, size, checkpointing, tuned, images):
    model = tuned(design((name, None, size)), "dinov2", depth=2)
    model.set_grad_checkpointing(checkpointing)
    model(images(model)).sum().backward()
    sides = [m for m in model.petl.modules() if isinstance(m, Side)]
    assert sides and all(m._kept is None for m in sides)
    assert all(getattr(m, "_pooled", None) is None for m in sides)


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_blocks_share_more_than_the_stream(name, size):
    assert not get_method(name).blockwise and get_method(name).in_backbone and not get_method(name).in_blocks


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_gradients_pass_as_far_through_the_blocks_as_the_method_says(name, size, tuned, images):
    model = tuned(design((name, None, size)), "gap", depth=5)
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output.grad_fn is not None))
    model.train()(images(model)).sum().backward()
    reached = {"lst": 0, "last": 0, "dtl": 3, "dtl_plus": 3, "hst": 5}[name]
    assert outputs == [False] * (5 - reached) + [True] * reached


@pytest.mark.parametrize("name", ["lst", "last"])
@pytest.mark.parametrize("other", [("lora", 0, 2), ("vpt", 0, 2), ("bitfit", None, None), ("dtl", None, 2)])
def test_what_would_get_no_gradient_beside_a_detached_side_network_is_refused(name, other, make):
    model = make("gap")
    message = (
        f"must reach the head, and {name} replaces the head's input.*got {other[0]} beside it; leave out {name} or"
    )
    with pytest.raises(DesignError, match=message):
        apply(model, design((name, None, 2), other))
    assert not hasattr(model, "petl")


def test_a_detached_side_network_takes_company_that_has_nothing_in_the_blocks(make):
    model = make("gap")
    assert count_params(design(("last", None, 2), ("linear",)), model) == count_params(design(("last", None, 2)), model)


def test_one_side_network_has_the_head(make):
    for pair in ((("lst", None, 2), ("hst",)), (("lst", None, 2), ("last", None, 2))):
        with pytest.raises(DesignError, match=r"one method may replace the head's input, got .* and .*; keep"):
            apply(make("gap"), design(*pair))


@pytest.mark.parametrize("name", ["dtl", "dtl_plus", "hst"])
@pytest.mark.parametrize("other", [("lora", 0, 2), ("vpt", 0, 3), ("adaptformer", 0, 2), ("adapter", 2, 2)])
def test_gradients_reach_what_stands_beside_in_the_blocks(name, other, tuned, images):
    model = tuned(design((name, None, None if name == "hst" else 2), other), "dinov2")
    model(images(model)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.petl.parameters())
