import pytest
import torch
import torch.nn.functional as F
from torch import nn

from petlas.petl import Design, Site, apply
from petlas.petl.parts.frozen_linear import scaled_affine, scaled_linear, updated_linear

WIDE = {"dtype": torch.float64, "requires_grad": True}
UNIT = (torch.zeros(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64))


def frozen(bias=True):
    return nn.Linear(6, 12, bias=bias).double().requires_grad_(False)


def assert_same(found, expected, wanted):
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(y, wanted, weights) for y in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("shares", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_an_update_of_any_shares_is_that_of_the_weight(shares, bias):
    torch.manual_seed(0)
    layer, x = frozen(bias), torch.randn(2, 5, 6, **WIDE)
    downs, ups = (torch.randn(len(shares), *s, **WIDE) for s in ((3, 6), (4, 3)))
    step = shares[1] - shares[0] if len(shares) > 1 else 1
    found = updated_linear(x, layer, downs, ups, slice(shares[0], shares[-1] + 1, step), 0.5)
    update = torch.zeros(3, 4, 6, dtype=torch.float64).index_put((torch.tensor(shares),), 0.5 * ups @ downs)
    expected = F.linear(x, layer.weight + update.flatten(0, 1), layer.bias)
    assert_same(found, expected, (x, downs, ups))


@pytest.mark.parametrize("bias", [True, False])
def test_a_scaled_layer_is_the_formula(bias):
    torch.manual_seed(0)
    layer, x = frozen(bias), torch.randn(2, 5, 6, **WIDE)
    scale, shift = (torch.randn(12, **WIDE) for _ in range(2))
    with torch.no_grad():
        scale[0] = 0  # its gradient is there all the same
    assert_same(scaled_linear(x, layer, scale, shift, UNIT), scale * layer(x) + shift, (x, scale, shift))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, {}), (torch.float32, {"rtol": 1e-5, "atol": 1e-5})])
def test_more_tokens_than_inputs_go_through_a_scaled_weight_where_no_scale_is_near_0(bias, dtype, close, monkeypatch):
    torch.manual_seed(0)
    layer, x = frozen(bias).to(dtype), torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)
    layer.bias = None if layer.bias is None else layer.bias.requires_grad_(True)
    scale = (torch.tensor([-1.0, 0.1] * 6) * torch.linspace(1, 3, 12)).to(dtype).requires_grad_(True)
    shift = torch.randn(12, dtype=dtype, requires_grad=True)
    unit = tuple(t.to(dtype) for t in UNIT)
    wanted = [t for t in (x, scale, shift, layer.bias) if t is not None]
    with monkeypatch.context() as patch:
        patch.setattr(F, "batch_norm", None)  # what passes over the output
        found = scaled_linear(x, layer, scale, shift, unit)
    expected = scale * layer(x) + shift
    torch.testing.assert_close(found, expected, **close)
    weights = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(y, wanted, weights) for y in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, **close)
    with torch.no_grad():
        assert torch.equal(scaled_linear(x, layer, scale, shift, unit), found)
    few = x[:, :2].detach().requires_grad_(True)  # fewer tokens than inputs
    assert_same(scaled_linear(few, layer, scale, shift, unit), scale * layer(few) + shift, (few, scale, shift))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_scaled_norm_is_the_formula(bias, tuned):
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 5, 12, **WIDE), *(torch.randn(12, **WIDE) for _ in range(2))
    weight, own = (torch.randn(12, dtype=torch.float64, requires_grad=tuned) for _ in range(2))
    own = own if bias else None
    found = F.layer_norm(x, (12,), *scaled_affine(weight, own, scale, shift))
    expected = scale * F.layer_norm(x, (12,), weight, own) + shift
    assert_same(found, expected, [t for t in (x, scale, shift, weight, own) if t is not None and t.requires_grad])


def test_a_tuned_bias_gets_its_gradient():
    torch.manual_seed(0)
    layer, x = frozen(), torch.randn(2, 5, 6, **WIDE)
    layer.bias.requires_grad_(True)
    scale, shift = (torch.randn(12, **WIDE) for _ in range(2))
    downs, ups = torch.randn(1, 3, 6, **WIDE), torch.zeros(1, 12, 3, **WIDE)
    for found, expected in (
        (scaled_linear(x, layer, scale, shift, UNIT), scale * layer(x) + shift),
        (updated_linear(x, layer, downs, ups, slice(0, 1), 1.0), layer(x)),
    ):
        assert_same(found, expected, (layer.bias,))


def test_an_update_of_nothing_changes_no_bit_and_the_weight_stays():
    layer, x = nn.Linear(64, 96).requires_grad_(False), torch.randn(3, 5, 64)
    before, downs = layer.weight.clone(), torch.randn(2, 4, 64)
    assert torch.equal(updated_linear(x, layer, downs, torch.zeros(2, 32, 4), slice(0, 3, 2), 1.0), layer(x))
    updated_linear(x, layer, downs, torch.ones(2, 32, 4), slice(0, 3, 2), 1.0)
    assert torch.equal(layer.weight, before)


def test_under_autocast_the_update_is_added_in_float32():
    """Rounded together with the weight: an update that is small beside the weight is not lost twice."""
    layer, x = nn.Linear(64, 32, bias=False).requires_grad_(False), torch.randn(3, 5, 64)
    downs, ups = torch.randn(1, 2, 64, requires_grad=True), 1e-3 * torch.randn(1, 32, 2)
    weight = layer.weight + (ups @ downs.detach()).squeeze(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = updated_linear(x, layer, downs, ups, slice(0, 1), 1.0)
        assert torch.equal(found, F.linear(x, weight))
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16 and downs.grad.dtype == torch.float32


@pytest.mark.parametrize("found", ["updated", "scaled"])
def test_without_gradients_the_digits_are_the_same(found):
    layer, x = nn.Linear(6, 12).requires_grad_(False), torch.randn(2, 5, 6)
    downs, ups, scale = torch.randn(1, 3, 6), torch.randn(1, 12, 3), torch.randn(12, requires_grad=True)
    unit = (torch.zeros(12), torch.ones(12))

    def compute():
        if found == "updated":
            return updated_linear(x, layer, downs, ups, slice(0, 1), 1.0)
        return scaled_linear(x, layer, scale, scale, unit)

    with torch.inference_mode():
        measured = compute()
    assert torch.equal(measured, compute())


@pytest.mark.parametrize("name", ["lora", "ssf"])
@pytest.mark.parametrize("beside", [None, "dora", "hst"])
def test_what_is_computed_inside_a_layer_is_what_acts_on_its_output(
    name, beside, make, usual, shake, images, monkeypatch
):
    found = []
    for hooked in (False, True):
        with monkeypatch.context() as patch:
            if hooked:
                patch.setattr(Site, "untouched", False)
            model = make("dinov2").double()
            names = (name, beside) if beside else (name,)
            design = Design.of(p for each in names for p in usual(each, model).placements)
            torch.manual_seed(0)
            apply(model, design)
        shake(model)
        x = images(model).double()
        logits = model(x)
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in model.petl.parameters())])
    for inside, outside in zip(*found, strict=True):
        torch.testing.assert_close(inside, outside)
