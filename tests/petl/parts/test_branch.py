import pytest
import torch
import torch.nn.functional as F

from petlas.petl.parts.branch import DERIVATIVES, add_branch
from petlas.petl.parts.products import reduce, widen

WIDE = {"dtype": torch.float64, "requires_grad": True}


def layers(biased=True, channels=5, width=4):
    sizes = [(width, channels), (width,), (channels, width), (channels,)]
    return tuple(torch.randn(s, **WIDE) if biased or len(s) > 1 else None for s in sizes)


def by_formula(base, x, given, act, scale, keep):
    down, down_bias, up, up_bias = given
    branch = F.linear(act(F.linear(x, down, down_bias)), up, up_bias)
    return (x if base is None else base) + scale * (branch if keep is None else keep * branch)


@pytest.mark.parametrize("act", DERIVATIVES, ids=lambda act: act.__name__)
@pytest.mark.parametrize("keep", [None, (0.0, 1.25)], ids=["all", "dropped"])
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize(("biased", "scale"), [(True, 1.0), (True, 0.3), (False, 0.3)])
def test_output_and_gradients_are_those_of_the_formula(act, keep, skips, biased, scale):
    torch.manual_seed(0)
    x, base = torch.randn(2, 3, 5, **WIDE), None if skips else torch.randn(2, 3, 5, **WIDE)
    given = layers(biased)
    keep = None if keep is None else torch.tensor(keep, dtype=torch.float64).view(2, 1, 1)
    found = add_branch(base, x, given, act, scale=scale, keep=keep)
    expected = by_formula(base, x, given, act, scale, keep)
    torch.testing.assert_close(found, expected)
    wanted = [tensor for tensor in (base, x, *given) if tensor is not None]
    weights = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(y, wanted, weights) for y in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


def test_dropout_is_drawn_as_on_the_hidden_units_and_keeps_its_gradient():
    x, down, up = torch.randn(7, 9, 16, requires_grad=True), torch.randn(8, 16), torch.randn(16, 8)
    torch.manual_seed(1)
    found = add_branch(None, x, (down, None, up, None), F.gelu, 0.5, 0.3)
    torch.manual_seed(1)
    expected = x + 0.3 * widen(F.dropout(F.gelu(reduce(x, down)), 0.5), up)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_under_autocast_products_are_bf16_and_the_stream_and_gradients_keep_their_type(stream):
    x = torch.randn(2, 3, 16).to(stream).requires_grad_()
    given = tuple(torch.randn(s, requires_grad=True) for s in ((4, 16), (4,), (16, 4), (16,)))
    with torch.autocast("cpu", torch.bfloat16):
        found = add_branch(None, x, given, F.gelu)
        with torch.no_grad():
            assert torch.equal(add_branch(None, x, given, F.gelu), found)
    found.float().sum().backward()
    assert found.dtype == x.grad.dtype == stream and all(p.grad.dtype == torch.float32 for p in given)
    expected = by_formula(None, x.float(), given, F.gelu, 1.0, None)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_nothing_is_computed_for_a_stream_without_gradients():
    x, given = torch.randn(2, 3, 5, dtype=torch.float64), layers()
    add_branch(None, x, given, F.gelu).sum().backward()
    assert x.grad is None and all(p.grad is not None for p in given)


def test_no_weight_gradient_is_formed_with_rows_of_a_few_hidden_units():
    """g^T hidden takes a CPU ten times as long as hidden^T g for a few hidden units."""
    x = torch.randn(2, 99, 64, requires_grad=True)
    given = tuple(torch.randn(s, requires_grad=True) for s in ((8, 64), (8,), (64, 8), (64,)))
    output = add_branch(torch.zeros(2, 99, 64), x, given, F.gelu)
    with torch.profiler.profile(record_shapes=True) as profile:
        output.sum().backward()
    shapes = [event.input_shapes for event in profile.events() if event.name == "aten::mm"]
    assert sorted(shapes) == [
        [[8, 64], [64, 198]],  # the hidden units', turned round
        [[8, 198], [198, 64]],  # down's
        [[8, 198], [198, 64]],  # up's, turned round
        [[198, 8], [8, 64]],  # x's
    ]
