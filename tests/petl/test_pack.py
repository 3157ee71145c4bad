from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from petlas.petl import (
    Adapters,
    Design,
    DesignError,
    Draws,
    Pack,
    Placement,
    Streams,
    everywhere,
    get_method,
    groups,
    prefix_of,
    resume,
    routing,
    run_prefix,
)
from petlas.petl.methods import METHODS

TINY = {"embed_dim": 96, "num_heads": 3, "depth": 2}
SIZED = {"partial": 1, "prefix": 2}
AT_ROOT = {"full"}
ON_TOKENS = [name for name in METHODS if not {"conv.in", "pixels"} & {*get_method(name).sites, *get_method(name).needs}]
CLOSE = {"rtol": 1e-7, "atol": 1e-9}  # in float64: what is mixed up shows


def design_of(model: nn.Module, name: str, **options: Any) -> Design:
    size = SIZED.get(name, 4) if get_method(name).size_means else None
    placements = everywhere(name, model, size).placements
    return Design.of(Placement(p.method, p.block, p.size, tuple(options.items()) or p.options) for p in placements)


def passed(models: dict[str, nn.Module], run: Callable[[], dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Logits and gradients, by model."""
    for model in models.values():
        model.zero_grad()
    logits = run()
    sum(value.square().mean() for value in logits.values()).backward()  # type: ignore[union-attr]
    grads = {
        name: {path: p.grad for path, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        for name, model in models.items()
    }
    return {name: {"logits": logits[name].detach(), **grads[name]} for name in models}


def assert_as_alone(adapters: Adapters, inputs: dict[str, Any], draws: dict[str, Draws] | None = None) -> None:
    """In training mode, each with its own random numbers: what was drawn before plays no part."""
    models = {name: adapters[name] for name in adapters}
    draws = draws or {}
    for seed, name in enumerate(models):
        torch.manual_seed(seed)
        draws[name] = Draws(torch.device("cpu"))
    states = {name: own.states for name, own in draws.items()}
    pack = Pack(adapters, draws=draws)
    pack.train()

    def one_by_one() -> dict[str, Tensor]:
        found = {}
        for name, model in models.items():
            with draws[name]:
                found[name] = resume_or_run(model, inputs[name])
        return found

    expected = passed(models, one_by_one)
    ends = {name: own.states for name, own in draws.items()}
    for name, own in draws.items():
        own.states = states[name]
    torch.manual_seed(99)
    found = passed(models, lambda: pack(inputs))
    for name in models:
        assert expected[name].keys() == found[name].keys()
        for path, value in expected[name].items():
            torch.testing.assert_close(found[name][path], value, msg=lambda m, at=(name, path): f"{at}: {m}", **CLOSE)
        assert all(map(torch.equal, draws[name].states, ends[name])), f"{name} drew other random numbers"


def resume_or_run(model: nn.Module, given: Any) -> Tensor:
    return resume(model, given) if isinstance(given, Streams) else model(given)  # type: ignore[no-any-return]


@pytest.fixture
def hosts(make: Any, shake: Any, images: Any) -> Callable[..., tuple[Adapters, dict[str, Tensor]]]:
    """Designs on one tiny backbone, shaken, and images of other numbers for each."""

    def host(*designs: str | Design, **arguments: Any) -> tuple[Adapters, dict[str, Tensor]]:
        backbone = make(**TINY | arguments).double()
        adapters = Adapters(backbone)
        for number, design in enumerate(designs):
            own = design_of(backbone, design) if isinstance(design, str) else design
            shake(adapters.add(f"m{number}", own), 0.05)
        return adapters, {name: images(backbone, n + 2, seed=n) for n, name in enumerate(adapters)}

    return host


@pytest.mark.parametrize("name", [name for name in ON_TOKENS if name not in AT_ROOT])
def test_every_method_computes_beside_others_what_it_computes_alone(hosts: Any, name: str) -> None:
    adapters, inputs = hosts(name, "lora", name)
    found, alone = groups(adapters, adapters)
    assert not alone and found[0][0] == "m0" and "m2" in found[0]
    for other in [other for group in found[1:] for other in group]:
        adapters.remove(other)
    assert_as_alone(adapters, {member: inputs[member] for member in adapters})


def test_what_is_dropped_is_drawn_by_each_design_as_if_it_were_alone(hosts: Any) -> None:
    """Drop-path is the backbone's, dropout of hidden units the design's."""
    adapters, inputs = hosts("convpass", "lora", "adaptformer", drop_path_rate=0.5)
    adapters.add("m3", design_of(adapters.backbone, "lora", dropout=0.5))
    assert_as_alone(adapters, {**inputs, "m3": inputs["m0"].flip(0)})


def test_a_backbone_that_drops_units_itself_is_run_by_each_design_where_it_does(hosts: Any) -> None:
    adapters, inputs = hosts("lora", "adapter", proj_drop_rate=0.5, attn_drop_rate=0.3)
    assert_as_alone(adapters, inputs)


def test_who_knows_what_its_leading_blocks_give_joins_behind_them(hosts: Any) -> None:
    at = [Design.of([Placement("lora", 1, 2)]), Design.of([Placement("last", None, 4)]), Design.of([])]
    adapters, inputs = hosts(Design.of([Placement("adapter", 0, 2)]), *at)
    for name in ("m1", "m2", "m3"):
        prefix = prefix_of(adapters[name])
        assert prefix
        known = run_prefix(adapters[name], inputs[name], prefix)
        inputs[name] = Streams(prefix, known, (inputs[name].shape[-2], inputs[name].shape[-1]))
    assert {given.prefix.blocks for given in inputs.values() if isinstance(given, Streams)} == {1, 2}
    assert_as_alone(adapters, inputs)
    for name in ("m0", "m2"):
        adapters.remove(name)
        del inputs[name]
    assert_as_alone(adapters, inputs)


def test_frozen_layers_run_once_and_those_that_are_trained_once_for_each(hosts: Any, monkeypatch: Any) -> None:
    adapters, inputs = hosts("adapter", "bitfit", "adapter")
    sizes: list[tuple[int, int]] = []
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: sizes.append((len(x), x.shape[-1])) or forward(self, x))
    pack = Pack(adapters)
    sizes.clear()
    pack(inputs)
    wide = [images for images, width in sizes if width == 4 * TINY["embed_dim"]]  # fc2 of two blocks
    assert sorted(wide) == [3, 3, 6, 6]  # the second design's own, and those of 2 and 4 images together


@pytest.mark.parametrize(
    "method", ["lora", "adapter", "adaptformer", "adapter_plus", "houlsby", "convpass", "ssf", "bitfit"]
)
def test_what_is_inserted_is_computed_at_once_for_those_that_insert_the_same(hosts: Any, method: str) -> None:
    """Of whatever sizes, and wherever they stand in the pack."""
    sizes, others = ([2, 4, 1], 5) if get_method(method).size_means else ([None] * 3, 0)
    designs = [Design.of(Placement(method, block, size) for block in range(2)) for size in sizes]
    adapters, inputs = hosts(*designs[:2], "dora", designs[2])
    inputs = {name: inputs["m0"] + n for n, name in enumerate(adapters)}
    assert_as_alone(adapters, inputs)

    def operations(*names: str) -> int:
        pack = Pack(adapters, names)
        with _Operations() as counted:
            sum(map(torch.sum, pack({name: inputs[name] for name in names}).values())).backward()  # type: ignore[union-attr]
        return counted.number

    assert operations("m0", "m1", "m3") - operations("m0", "m1") < 8 * others + 30


class _Operations(TorchDispatchMode):
    """Counts operations, views apart."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def test_under_autocast_frozen_weights_are_cast_once_to_the_same_bits(hosts: Any, monkeypatch: Any) -> None:
    adapters, _ = hosts("lora", "adapter", "ssf")
    adapters.float()
    pack, inputs = Pack(adapters), {name: torch.randn(2, 3, 32, 32) for name in adapters}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pack(inputs)
        with _Operations() as once:
            found = pack(inputs)
        monkeypatch.setattr(pack, "_casts", nullcontext)
        with _Operations() as each:
            expected = pack(inputs)
    assert all(torch.equal(found[name], expected[name]) for name in adapters)
    assert each.number - once.number == 2 * 2 * 4 + 2  # weights and biases of all layers of two blocks, and of the stem


def test_some_of_a_pack_go_on_without_the_others(hosts: Any) -> None:
    adapters, inputs = hosts("lora", "adapter", "ssf")
    pack = Pack(adapters)
    expected = pack(inputs)
    assert list(expected) == list(inputs)
    found = pack({"m2": inputs["m2"], "m0": inputs["m0"]})
    assert list(found) == ["m2", "m0"]
    for name, logits in found.items():
        torch.testing.assert_close(logits, expected[name], **CLOSE)


def test_what_is_not_finite_stays_with_its_design(hosts: Any) -> None:
    adapters, inputs = hosts("lora", "adapter")
    inputs["m0"] = inputs["m0"] * torch.nan
    pack = Pack(adapters)
    found = passed({name: adapters[name] for name in adapters}, lambda: pack(inputs))
    assert not found["m0"]["logits"].isfinite().any()
    assert all(value.isfinite().all() for value in found["m1"].values())


def test_designs_go_together_by_their_shapes_and_not_by_their_names(hosts: Any) -> None:
    def prompts(*sizes: int) -> Design:
        return Design.of(Placement("vpt", block, size) for block, size in enumerate(sizes) if size)

    designs = (prompts(4, 4), "lora", prompts(4, 2), prompts(4, 4), "full", "adapter", "vpt_shallow")
    adapters, inputs = hosts(*designs)
    found, alone = groups(adapters, adapters)
    assert found == [["m0", "m3"], ["m1", "m5"], ["m2"], ["m4"], ["m6"]]
    assert list(alone) == ["m4"] and "cls_token" in alone["m4"]
    with pytest.raises(DesignError, match="m4 trains cls_token, pos_embed"):
        Pack(adapters)
    with pytest.raises(DesignError, match="shapes"):
        Pack(adapters, ["m0", "m1"])
    with pytest.raises(DesignError, match="m5"):
        Pack(adapters, ["m0", "m3"])(inputs)


def test_where_images_do_not_lie_behind_one_another_designs_are_not_run_at_once(hosts: Any, monkeypatch: Any) -> None:
    adapters, _ = hosts("lora", "adapter")
    split = routing._split
    monkeypatch.setattr(routing, "_split", lambda x, rows: [part.flip(0) for part in split(x, rows)])
    with pytest.raises(DesignError, match=r"m0 does not; run it alone"):
        Pack(adapters)


def test_the_designs_stay_what_they_are(hosts: Any) -> None:
    adapters, inputs = hosts("lora", "bitfit")
    before, expected = dict(adapters.state_dict()), [adapters[name](inputs[name]) for name in adapters]
    Pack(adapters)(inputs)
    after = adapters.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(adapters[name](inputs[name]), y) for name, y in zip(adapters, expected, strict=True))
