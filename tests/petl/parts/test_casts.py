"""Frozen weights are cast once, to what autocast makes of them, and only where nobody reads them otherwise."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from petlas.petl import Design, Placement, apply, family_of, frozen_casts
from petlas.petl.parts.casts import FrozenCasts, frozen_cast

BF16 = torch.bfloat16


class Casts(TorchDispatchMode):
    """Notes the shapes of all tensors that are cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.dtype is BF16:
            self.shapes.append(tuple(found.shape))
        return found


def small() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1), nn.Linear(16, 5), nn.Linear(5, 6, bias=False))
    return model.requires_grad_(False)


def test_a_cast_is_autocasts_own_and_is_made_anew_when_the_tensor_changes() -> None:
    weight = torch.randn(50, 30)
    first = frozen_cast(weight, BF16)
    assert torch.equal(first, weight.to(BF16)) and frozen_cast(weight, BF16) is first
    weight.mul_(3)
    assert torch.equal(frozen_cast(weight, BF16), weight.to(BF16))
    weight.data = torch.randn(50, 30)
    assert torch.equal(frozen_cast(weight, BF16), weight.to(BF16))
    assert frozen_cast(weight, torch.float16).dtype is torch.float16


def test_what_is_trained_or_of_another_type_is_left_as_it_is() -> None:
    for tensor in (torch.zeros(3, requires_grad=True), torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=BF16)):
        assert frozen_cast(tensor, BF16) is tensor
    weight = torch.zeros(3)
    assert frozen_cast(weight, torch.float32) is weight


def test_a_second_pass_casts_no_weight_and_computes_the_same_to_the_bit() -> None:
    model, images = small(), torch.randn(2, 3, 4, 4)
    weights = {tuple(p.shape) for p in model.parameters()}
    with torch.autocast("cpu", BF16):
        expected = model(images)
        casts = frozen_casts(model)
        for first in (True, False):
            with Casts() as seen, casts():
                assert torch.equal(model(images), expected)
            assert (weights <= set(seen.shapes)) is first and ((2, 3, 4, 4) in seen.shapes)
    assert frozen_casts(model) is casts


def test_afterwards_and_for_state_dicts_everything_is_as_it_was() -> None:
    model, images = small(), torch.randn(2, 3, 4, 4)
    before, own = copy.deepcopy(model.state_dict()), [set(vars(module)) for module in model.modules()]
    with pytest.raises(RuntimeError, match="channels"), torch.autocast("cpu", BF16), frozen_casts(model)():
        with frozen_casts(model)():
            model(images)
        assert model[2].weight.dtype is BF16
        state = model.state_dict()
        assert all(p.dtype is torch.float32 for p in model.parameters())
        model(images[:, :2])
    assert [set(vars(module)) for module in model.modules()] == own
    assert all(torch.equal(value, before[key]) and value.dtype is before[key].dtype for key, value in state.items())
    assert model(images).dtype is torch.float32
    with frozen_casts(model)():
        assert model[2].weight is model.get_parameter("2.weight") and model(images).dtype is torch.float32


def test_what_is_set_free_frozen_or_put_in_place_between_passes_is_seen() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4)
    casts = frozen_casts(model)
    with torch.autocast("cpu", BF16):
        for change in (
            lambda: model.requires_grad_(False),
            lambda: model.requires_grad_(True),
            lambda: model.requires_grad_(False),
            lambda: setattr(model[0], "weight", nn.Parameter(torch.randn(3, 4), requires_grad=False)),
            lambda: model.load_state_dict({"0.weight": torch.randn(3, 4), "0.bias": torch.randn(3)}),
        ):
            change()
            layer = model[0]
            expected = F.linear(x.to(BF16), layer.weight.to(BF16), layer.bias.to(BF16))
            with casts():
                found = model(x)
                assert torch.equal(found, expected) and found.requires_grad == layer.weight.requires_grad


def test_a_layer_to_which_anything_is_attached_shows_its_own_weight(make: Callable[..., nn.Module]) -> None:
    model = make("plain")
    seen: dict[str, torch.dtype] = {}

    def read(tokens: Tensor) -> None:
        seen.update({name: model.get_submodule(f"blocks.0.{name}").weight.dtype for name in ("mlp.fc1", "mlp.fc2")})

    model.requires_grad_(False)
    handle = family_of(model).site(model, "mlp.in", 0).read(read)
    with torch.no_grad(), torch.autocast("cpu", BF16), frozen_casts(model)():
        model(torch.randn(1, 3, 32, 32))
    handle.remove()
    assert seen == {"mlp.fc1": torch.float32, "mlp.fc2": BF16}


def test_models_that_hold_a_weight_share_its_cast_and_training_takes_what_measuring_made() -> None:
    layer = nn.Linear(4, 3).requires_grad_(False)
    first, second = nn.Sequential(layer), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    second[1].weight = layer.weight
    x, addresses = torch.randn(2, 4), []
    with torch.autocast("cpu", BF16):
        with torch.inference_mode(), FrozenCasts([first])():
            first(x)
            addresses.append(layer.weight.data_ptr())
        with frozen_casts(second)():
            second(x).float().sum().backward()
            addresses.append(second[1].weight.data_ptr())
    assert addresses[0] == addresses[1] != layer.weight.data_ptr()
    assert second[0].weight.grad is not None


def test_a_design_trains_to_the_same_bits(
    make: Callable[..., nn.Module], shake: Callable[..., None], images: Any
) -> None:
    model = make("dinov2")
    sizes = {"lora": 2, "adapter": 3, "vpt": 4, "ssf": None}
    apply(model, Design.of(Placement(name, 1 + (name == "ssf"), size) for name, size in sizes.items()))
    shake(model)
    found = []
    for casts in (nullcontext, frozen_casts(model), frozen_casts(model)):
        model.zero_grad()
        with torch.autocast("cpu", BF16), Casts() as seen, casts():
            logits = model(images(model))
        logits.float().square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])
    linear = (tuple(p.shape) for name, p in model.named_parameters() if name.startswith("blocks.0.") and p.ndim == 2)
    assert not set(linear) & (set(seen.shapes) - {(3 * 96, 96)})  # but for what LoRA makes of its layer's weight
