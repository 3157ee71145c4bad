from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.methods.ssf import ScaleShift, _scaled_linear, _scaled_norm
from petlas.petl.parts.branch import add_branch
from petlas.petl.parts.conv_branch import Place, add_conv_branch
from petlas.petl.parts.frozen_linear import updated_linear
from petlas.petl.parts.joint import Asked, asked_of, asks, essence, hands_on, is_asking, stacked, together
from petlas.petl.parts.trained_layers import trained_layer

WIDE: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
CHANNELS = 6
Function = Callable[[Tensor], Tensor]


def bottleneck(
    size: int, onto: bool = False, keep: bool = False, dropout: float = 0.0, bias: bool = True, **how: Any
) -> Function:
    shapes = ((size, CHANNELS), (size,), (CHANNELS, size), (CHANNELS,))
    layers = [torch.randn(shape, **WIDE | how) for shape in shapes]
    if not bias:
        layers[1::2] = [None, None]
    base = torch.randn(2, 3, CHANNELS, **WIDE) if onto else None
    kept = torch.tensor([0.0, 2.0], dtype=torch.float64).view(2, 1, 1) if keep else None
    return lambda x: add_branch(base, x, tuple(layers), F.gelu, dropout, 0.5, kept)


def convolved(size: int, keep: bool = False, dropout: float = 0.0, **how: Any) -> Function:
    shapes = ((size, CHANNELS), (size,), (size, size, 3, 3), (size,), (CHANNELS, size), (CHANNELS,))
    layers = tuple(torch.randn(shape, **WIDE | how) for shape in shapes)
    kept = torch.tensor([0.0, 2.0], dtype=torch.float64).view(2, 1, 1) if keep else None
    n = torch.randn(2, 3, CHANNELS, **WIDE | how)
    return lambda x: add_conv_branch(x, n, layers, Place(1, (1, 2)), dropout, 0.5, kept)  # type: ignore[arg-type]


LAYER = nn.Linear(CHANNELS, 12).double().requires_grad_(False)
NORM = nn.LayerNorm(CHANNELS).double().requires_grad_(False)


def updated(rank: int, shares: slice = slice(0, 3, 2), layer: nn.Linear = LAYER) -> Function:
    downs, ups = (
        [torch.randn(shape, dtype=layer.weight.dtype, requires_grad=True) for _ in range(3)[shares]]
        for shape in ((rank, CHANNELS), (4, rank))
    )
    return lambda x: updated_linear(x, layer, downs, ups, shares, 0.5)


def scaled(outputs: int, function: Callable[..., Tensor], layer: nn.Module) -> Function:
    return partial(function, ScaleShift(outputs, 1.0).double(), layer)


def trained(layer: nn.Module, *frozen: str) -> Function:
    for name in frozen:
        setattr(layer, name, getattr(LAYER, name))
    return trained_layer(layer.double())


KINDS: dict[str, Callable[[], list[Function]]] = {
    "bottlenecks of several widths": lambda: [bottleneck(3), bottleneck(5), bottleneck(1)],
    "bottlenecks beside something": lambda: [bottleneck(4, onto=True), bottleneck(4, onto=True)],
    "bottlenecks without biases": lambda: [bottleneck(4, bias=False), bottleneck(2, bias=False)],
    "bottlenecks that are dropped": lambda: [bottleneck(n, True, keep=True, dropout=0.4) for n in (3, 4)],
    "convolutions of several widths": lambda: [convolved(3), convolved(5), convolved(1)],
    "convolutions that are dropped": lambda: [convolved(n, keep=True, dropout=0.4) for n in (3, 4)],
    "updates of several ranks": lambda: [updated(2), updated(4), updated(1)],
    "updates of a share": lambda: [updated(2, slice(1, 2)), updated(2, slice(1, 2))],
    "updates of all": lambda: [updated(3, slice(None)), updated(2, slice(None))],
    "scaled layers": lambda: [scaled(12, _scaled_linear, LAYER) for _ in range(3)],
    "scaled norms": lambda: [scaled(CHANNELS, _scaled_norm, NORM) for _ in range(3)],
    "heads": lambda: [trained(nn.Linear(CHANNELS, 5)) for _ in range(3)],
    "weights": lambda: [trained(nn.Linear(CHANNELS, 5, bias=False)) for _ in range(2)],
    "biases": lambda: [trained(nn.Linear(CHANNELS, 12), "weight") for _ in range(3)],
    "norms": lambda: [trained(nn.LayerNorm(CHANNELS)) for _ in range(2)],
    "norms without shifts": lambda: [trained(nn.LayerNorm(CHANNELS, bias=False)) for _ in range(2)],
}


def asked(functions: list[Function], xs: list[Tensor]) -> list[Asked]:
    found = []
    for seed, (function, x) in enumerate(zip(functions, xs, strict=True)):
        torch.manual_seed(seed)
        found.append(asked_of(function, x))
    return found  # type: ignore[return-value]


def leaves(function: Function, x: Tensor) -> list[Tensor]:
    """What it is differentiated by."""
    found = asked_of(function, x)
    assert isinstance(found, Asked)
    given = [t for arg in found.args for t in (arg if isinstance(arg, tuple) else (arg,)) if isinstance(t, Tensor)]
    return [t for t in given if t.requires_grad]


@pytest.mark.parametrize("name", KINDS)
def test_several_at_once_are_what_each_is_alone(name: str) -> None:
    torch.manual_seed(0)
    functions = KINDS[name]()
    xs = [torch.randn(2, 3, CHANNELS, **WIDE) for _ in functions]
    noted = asked(functions, xs)
    assert len({one.kind for one in noted}) == 1
    found = together(noted, xs, torch.cat(xs)).split(2)
    weights = torch.randn_like(found[0])
    for seed, (function, x, y) in enumerate(zip(functions, xs, found, strict=True)):
        torch.manual_seed(seed)
        expected = function(x)
        torch.testing.assert_close(y, expected)
        by = leaves(function, x)
        pairs = zip(*(torch.autograd.grad(z, by, weights, retain_graph=True) for z in (y, expected)), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs)
    assert torch.equal(together(noted[:1], xs[:1], xs[0]), noted[0].joint.alone(*noted[0].args))


def test_what_differs_in_more_than_its_size_is_no_one_kind() -> None:
    x, other = torch.randn(2, 3, CHANNELS, **WIDE), nn.Linear(CHANNELS, 12).double().requires_grad_(False)
    unlike = [
        bottleneck(3),
        bottleneck(3, bias=False),
        bottleneck(3, onto=True),
        bottleneck(3, keep=True),
        bottleneck(3, dropout=0.5),
        convolved(3),
        convolved(3, keep=True),
        convolved(3, dropout=0.5),
        updated(2),
        updated(2, slice(0, 1)),
        scaled(12, _scaled_linear, LAYER),
        scaled(12, _scaled_linear, other),
        trained(nn.Linear(CHANNELS, 12)),
        trained(nn.Linear(CHANNELS, 12), "weight"),
        trained(nn.Linear(CHANNELS, 5)),
    ]
    kinds = [one.kind for one in asked(unlike, [x] * len(unlike))]
    assert len(set(kinds)) == len(unlike)
    assert len({one.kind for one in asked([bottleneck(3)] * 2, [x, x[:1]])}) == 2


def test_under_autocast_several_have_the_types_and_nearly_the_numbers_of_one() -> None:
    layer = nn.Linear(CHANNELS, 12).requires_grad_(False)
    single = {"dtype": torch.float32}
    for make in (partial(updated, layer=layer), partial(bottleneck, **single), partial(convolved, **single)):
        assert_nearly_alone([make(size) for size in (2, 4)])


def assert_nearly_alone(functions: list[Function]) -> None:
    xs = [torch.randn(2, 3, CHANNELS, requires_grad=True) for _ in functions]
    with torch.autocast("cpu", torch.bfloat16):
        found = together(asked(functions, xs), xs, torch.cat(xs))
        expected = torch.cat([function(x) for function, x in zip(functions, xs, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # of one type as well
    pairs = zip(*(torch.autograd.grad(y.float().square().sum(), xs) for y in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)


def test_a_function_is_known_as_asking_whatever_it_is_given_by() -> None:
    @asks
    def asking(scale: float, x: Tensor) -> Tensor:
        return add_branch(None, scale * x, (x[0], None, x[0].t(), None), F.relu)

    @hands_on
    def handing(function: Function, module: object, x: Tensor) -> Tensor:
        return function(x)

    class Own(nn.Module):
        @asks
        def forward(self, x: Tensor) -> Tensor:
            return x

    for function in (asking, partial(asking, 1.0), partial(handing, partial(asking, 1.0)), Own(), Own().forward):
        assert is_asking(function)
    for function in (partial(handing, torch.relu), nn.Linear(1, 1), partial(torch.add, asking), handing):
        assert not is_asking(function)
    assert essence(partial(handing, partial(asking, 1.0))) is asking
    x = torch.randn(1, 2, 2)
    assert isinstance(asked_of(partial(asking, 2.0), x), Asked) and isinstance(asking(2.0, x), Tensor)
    with pytest.raises(TypeError):
        asked_of(asking, x)
    assert isinstance(asking(2.0, x), Tensor)  # and not noted any more


def test_what_is_shorter_ends_in_zeros() -> None:
    one, two = torch.ones(2, 3), torch.ones(2, 1)
    assert stacked([one, two], 1).tolist() == [[[1, 1, 1]] * 2, [[1, 0, 0]] * 2]
    assert stacked([one, one], 1).shape == (2, 2, 3)
