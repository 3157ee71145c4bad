from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from petlas.petl import METHODS, Design, DesignError, Placement, apply, family_of, get_method, remove, shape_of
from petlas.petl.parts.elastic import Elastic
from petlas.petl.supernet import Supernet

SIZES = {"lora": 6, "adapter": 5, "vpt": 4}


def carried(model, **sizes):
    return Design.of(Placement(name, block, size) for name, size in sizes.items() for block in range(len(model.blocks)))


def randomise(supernet):
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in supernet.tuning.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)


def random_part(largest, rng):
    chosen = (p for p in largest.placements if rng.random() < 0.6)
    return Design.of(Placement(p.method, p.block, int(rng.integers(1, p.size + 1)) if p.size else None) for p in chosen)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_a_subnet_computes_what_a_design_of_its_own_with_its_slices_computes(kind, balanced, make, images):
    base = make(kind)
    supernet = Supernet(copy.deepcopy(base), carried(base, **SIZES), balanced)
    randomise(supernet)
    rng = np.random.default_rng(0)
    for _ in range(4):
        design = random_part(supernet.largest, rng)
        alone = apply(copy.deepcopy(base), design)
        alone.petl.load_state_dict(supernet.inherited(design))
        with torch.no_grad():
            assert torch.equal(supernet.activate(design)(images(base)), alone(images(base)))


def test_any_order_of_activations_gives_the_same_outputs(make, images):
    base = make("plain")
    supernet = Supernet(base, carried(base, **SIZES))
    randomise(supernet)
    rng = np.random.default_rng(1)
    designs = [random_part(supernet.largest, rng) for _ in range(4)]
    with torch.no_grad():
        first = [supernet.activate(design)(images(base)) for design in designs]
        again = [supernet.activate(design)(images(base)) for design in reversed(designs)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))


def test_only_what_is_active_gets_gradients(make, images):
    base = make("plain")
    supernet = Supernet(base, carried(base, **SIZES))
    supernet.activate(Design.of([Placement("lora", 1, 2), Placement("vpt", 0, 3)]))(images(base)).sum().backward()
    touched = {key for key, p in supernet.tuning.named_parameters() if p.grad is not None}
    assert {".".join(key.split(".")[:3]) for key in touched} == {
        "lora.blocks.1",
        "vpt.blocks.0",
        "head.weight",
        "head.bias",
    }
    assert not supernet.tuning.get_parameter("vpt.blocks.0.tokens").grad[3:].any()


def test_a_method_that_tunes_the_backbone_itself_leaves_it_untouched_where_it_is_absent(make, images):
    base = make("plain")
    plain = copy.deepcopy(base)
    supernet = Supernet(base, Design.of(Placement("bitfit", block) for block in range(3)))
    randomise(supernet)
    head = {key: value.clone() for key, value in supernet.inherited(Design()).items()}
    plain.head.load_state_dict({key.removeprefix("head."): value for key, value in head.items()})
    with torch.no_grad():
        tuned = supernet.activate(supernet.largest)(images(base))
        assert torch.equal(supernet.activate(Design())(images(base)), plain(images(base)))
        assert torch.equal(supernet.activate(supernet.largest)(images(base)), tuned)
    assert not torch.equal(tuned, plain(images(base)))


def test_balanced_slices_have_the_magnitude_of_the_whole(make):
    base = make("plain")
    for balanced, factor in ((True, 2.0), (False, 1.0)):
        supernet = Supernet(copy.deepcopy(base), carried(base, lora=8), balanced)
        randomise(supernet)
        state = supernet.inherited(carried(base, lora=2))
        whole = supernet.tuning.get_parameter("lora.blocks.0.q.up")
        torch.testing.assert_close(state["lora.blocks.0.q.up"], factor * whole[:, :2])
        assert torch.equal(state["lora.blocks.0.q.down"], supernet.tuning.get_parameter("lora.blocks.0.q.down")[:2])


@pytest.mark.parametrize(
    "placement", [Placement("lora", 0, 7), Placement("adaptformer", 0, 1), Placement("lora", 0, 2, (("alpha", 3),))]
)
def test_a_design_beyond_the_supernet_is_refused(placement, make):
    base = make("plain")
    supernet = Supernet(base, carried(base, **SIZES))
    with pytest.raises(DesignError, match="must lie within the supernet"):
        supernet.activate(Design.of([placement]))


ON_TOKENS = [
    n
    for n, method in ((n, get_method(n)) for n in METHODS)
    if method.combines and method.in_blocks and "conv.in" not in method.needs
]


@pytest.mark.parametrize("name", ON_TOKENS)
def test_every_method_at_blocks_can_be_part_of_a_supernet(name, make, images):
    base = make("plain")
    method = get_method(name)
    size = 4 if method.size_means else None
    supernet = Supernet(copy.deepcopy(base), Design.of(Placement(name, block, size) for block in range(3)))
    randomise(supernet)
    elastic = any(isinstance(module, Elastic) for module in supernet.tuning.modules())
    part = Design.of([Placement(name, 1, 2 if elastic else size)])
    alone = apply(copy.deepcopy(base), part)
    alone.petl.load_state_dict(supernet.inherited(part))
    with torch.no_grad():
        torch.testing.assert_close(supernet.activate(part)(images(base)), alone(images(base)), rtol=0, atol=1e-5)


def test_the_backbone_stays_what_it_is_for_the_formulas(make):
    base = make("plain")
    before = shape_of(base)
    assert shape_of(Supernet(base, carried(base, **SIZES)).model) == before


def test_what_any_design_needs_stays_when_another_is_taken_on_and_is_narrowed_once(make, images, monkeypatch):
    base = make("plain")
    there, narrowed = [], []

    class Needed:
        def __init__(self):
            there.append(self)

        def remove(self):
            there.remove(self)

    family = type(family_of(base))
    monkeypatch.setattr(family, "exposed", lambda self, model: iter([Needed()]))
    own = Elastic.narrow
    monkeypatch.setattr(Elastic, "narrow", lambda self, size: narrowed.append(size) or own(self, size))
    supernet = Supernet(base, carried(base, **SIZES))
    (first,) = there
    narrowed.clear()
    for sizes in ({"lora": 3, "vpt": 2}, {"vpt": 2}, {"lora": 3}, {"lora": 2, "vpt": 2}):
        supernet.activate(carried(base, **sizes))
        assert there == [first]
    depth = len(base.blocks)
    assert narrowed == depth * [3, 3] + depth * [2] + depth * [2, 2]  # q and v; prompts once; q and v again
    remove(base)
    assert not there
