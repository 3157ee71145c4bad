import pytest
import torch
import torch.nn.functional as F

from petlas.petl.parts.products import add_product, reduce, widen


@pytest.mark.parametrize("product", [reduce, widen])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_products_and_their_gradients_are_those_of_a_linear_layer(shape, biased, product):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, (6, 4), (6,)))
    given = [x, weight, bias] if biased else [x, weight]
    found, expected = (f(*given) for f in (product, F.linear))
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, given, weights), torch.autograd.grad(expected, given, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_gradient_of_a_narrow_weight_is_formed_with_long_rows():
    """g^T hidden takes a CPU ten times as long as hidden^T g for a few hidden units."""
    hidden, up = torch.randn(3152, 8), torch.randn(768, 8, requires_grad=True)
    for output in (
        widen(hidden, up),
        widen(hidden, up, torch.zeros(768)),
        add_product(torch.zeros(3152, 768), hidden, up),
    ):
        with torch.profiler.profile(record_shapes=True) as profile:
            output.sum().backward()
        shapes = [event.input_shapes for event in profile.events() if event.name == "aten::mm"]
        assert shapes == [[[8, 3152], [3152, 768]]]


@pytest.mark.parametrize("act", [torch.nn.Identity(), F.gelu, lambda z: z * torch.sigmoid(z)])
def test_no_product_of_the_backward_pass_has_rows_of_a_few_hidden_units(act):
    """Whatever leads in and out again: g up takes a CPU two to four times as long as up^T g^T."""
    x, down, up = torch.randn(2, 99, 64, requires_grad=True), torch.randn(8, 64), torch.randn(768, 8)
    down.requires_grad_(), up.requires_grad_()
    for output in (
        widen(act(reduce(x, down)), up),
        widen(act(reduce(x, down, torch.zeros(8, requires_grad=True))), up, torch.zeros(768)),
        add_product(torch.zeros(2, 99, 768), act(reduce(x, down)), up),
    ):
        with torch.profiler.profile(record_shapes=True) as profile:
            output.sum().backward()
        shapes = [event.input_shapes for event in profile.events() if event.name == "aten::mm"]
        assert sorted(shapes) == [
            [[8, 198], [198, 64]],  # down's gradient
            [[8, 198], [198, 768]],  # up's, turned round
            [[8, 768], [768, 198]],  # the hidden units', turned round
            [[198, 8], [8, 64]],  # x's
        ]


def test_add_product_adds_the_product_for_each_run_of_outputs():
    output, hidden, up = torch.randn(2, 5, 12), torch.randn(2, 5, 3, 2), torch.randn(4, 2)
    expected = output + torch.cat([hidden[:, :, i] @ up.T for i in range(3)], dim=-1)
    torch.testing.assert_close(add_product(output, hidden, up), expected)
    torch.testing.assert_close(add_product(output[..., :4], hidden[:, :, 0], up), expected[..., :4])


def test_adding_nothing_changes_no_bit():
    output, hidden = torch.randn(2, 5, 12), torch.randn(2, 5, 2)
    before = output.clone()
    assert torch.equal(add_product(output, hidden, torch.zeros(12, 2)), before)
    assert not add_product(output, hidden, torch.ones(12, 2)).equal(before) and torch.equal(output, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_the_product_is_added_in_place_and_gives_the_same(dtype):
    output, hidden, up = torch.randn(2, 5, 12).to(dtype), torch.randn(2, 5, 3, 2), torch.randn(4, 2)
    expected = add_product(output, hidden.to(dtype), up.to(dtype))
    with torch.inference_mode():
        found = add_product(output, hidden, up)
    assert torch.equal(found, expected) and found.data_ptr() == output.data_ptr()
