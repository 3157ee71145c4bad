import copy
import time

import pytest
import torch
from safetensors.torch import load_file

from petlas.petl import (
    AdapterError,
    Adapters,
    Design,
    DesignError,
    Placement,
    apply,
    everywhere,
    family_of,
    load_adapter,
    merge,
    read_adapter_info,
    reset_head,
    save_adapter,
    tuned_state_dict,
)

KINDS = ("plain", "gap")
METHODS = ("lora", "vpt", "bitfit", "adapter", "full", "vqt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture
def files(make, shake, folder):
    """An adapter file of each method, trained alone: each with another number of classes."""

    def write(kind="plain"):
        paths = {name: folder / f"{kind}-{name}.safetensors" for name in METHODS}
        for classes, (name, path) in enumerate(paths.items(), start=3):
            if not path.exists():
                model = make(kind)
                reset_head(model, classes)
                shake(apply(model, everywhere(name, model)))
                save_adapter(model, path)
        return paths

    return write


def alone(path, model, classes):
    reset_head(model, classes)
    return load_adapter(path, model)


@pytest.mark.parametrize("kind", KINDS)
def test_each_design_computes_to_the_last_bit_what_it_computes_alone_and_the_backbone_stays(kind, make, files, images):
    backbone, paths = make(kind), files(kind)
    pixels, before = images(backbone), {k: v.clone() for k, v in backbone.state_dict().items()}
    plain = backbone(pixels)
    expected = {name: alone(path, make(kind), c)(pixels) for c, (name, path) in enumerate(paths.items(), start=3)}
    adapters = Adapters(backbone)
    for name, path in paths.items():
        adapters.add(name, path)
    for name in (*METHODS, *reversed(METHODS), METHODS[0]):
        adapters.use(name)
        assert torch.equal(adapters(pixels), expected[name])
        adapters.use(None)
        assert torch.equal(adapters(pixels), plain)
    for name in METHODS:
        adapters.remove(name)
    assert list(backbone.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(p.requires_grad for p in backbone.parameters())
    assert torch.equal(backbone(pixels), plain)


def test_a_batch_that_mixes_designs_gives_each_image_that_of_its_own(make, files, images):
    adapters, paths = Adapters(make()), files()
    for name, path in paths.items():
        adapters.add(name, path)
    pixels = images(adapters.backbone, 5)
    names = ["lora", None, "vpt", "lora", "bitfit"]
    rows = adapters.mixed(pixels, names)
    assert [len(row) for row in rows] == [3, 5, 4, 3, 5]
    assert torch.equal(torch.stack([rows[0], rows[3]]), adapters["lora"](pixels[[0, 3]]))
    assert torch.equal(rows[1], adapters.backbone(pixels[1:2])[0])
    assert torch.equal(rows[2], adapters["vpt"](pixels[2:3])[0])
    with pytest.raises(DesignError, match="got 1 names, 5 images"):
        adapters.mixed(pixels, ["lora"])


def test_a_switch_takes_no_time_and_the_weights_are_held_once(make, files):
    adapters, paths = Adapters(make()), files()
    for name in ("lora", "vpt"):
        adapters.add(name, paths[name])
    began = time.process_time()
    for _ in range(100):
        adapters.use("lora")
        adapters.use("vpt")
    assert (time.process_time() - began) / 200 < 0.005
    own = sum(p.numel() for p in adapters.backbone.parameters())
    added = sum(v.numel() for name in adapters for v in tuned_state_dict(adapters[name]).values())
    assert sum(p.numel() for p in adapters.parameters()) == own + added


def test_training_one_leaves_the_others_and_the_backbone(make, images, train):
    adapters = Adapters(make())
    for name in ("lora", "vpt"):
        adapters.add(name, everywhere(name, adapters.backbone), num_classes=4)
    pixels = images(adapters.backbone)
    before = {name: adapters.use(name)(pixels) for name in ("lora", "vpt", None)}
    train(adapters["vpt"])
    assert not torch.equal(adapters["vpt"](pixels), before["vpt"])
    assert torch.equal(adapters["lora"](pixels), before["lora"])
    assert torch.equal(adapters.use(None)(pixels), before[None])


def test_merging_one_leaves_the_others(make, files, images):
    adapters, paths = Adapters(make()), files()
    for name in ("lora", "bitfit", "vpt"):
        adapters.add(name, paths[name])
    pixels = images(adapters.backbone)
    expected = {name: adapters.use(name)(pixels) for name in ("lora", "bitfit", "vpt", None)}
    merged = adapters.merged("lora")
    torch.testing.assert_close(merged(pixels), expected["lora"], rtol=1e-4, atol=1e-4)
    assert not hasattr(merged, "petl")
    torch.testing.assert_close(merge(adapters["bitfit"])(pixels), expected["bitfit"], rtol=1e-4, atol=1e-4)
    for name in ("lora", "vpt", None):
        assert torch.equal(adapters.use(name)(pixels), expected[name])
    with pytest.raises(DesignError, match="vpt cannot"):
        adapters.merged("vpt")


def test_merging_into_the_backbone_itself_leaves_the_designs(make, files, images):
    adapters = Adapters(make())
    adapters.add("vpt", files()["vpt"])
    pixels = images(adapters.backbone)
    expected = adapters(pixels)
    merge(apply(adapters.backbone, everywhere("ssf", adapters.backbone)))
    assert torch.equal(adapters(pixels), expected)


def test_state_copies_and_moves_keep_what_is_shared(make, files, images):
    adapters, paths = Adapters(make()), files()
    for name in ("lora", "vpt", "bitfit"):
        adapters.add(name, paths[name])
    pixels = images(adapters.backbone)
    adapters.use("vpt")
    expected = {name: adapters[name](pixels) for name in adapters}
    state = adapters.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    twin = copy.deepcopy(adapters)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(1)
    assert all(torch.equal(twin[name](pixels), expected[name]) for name in expected)
    assert twin.active == "vpt"
    fresh = Adapters(make())
    for name in ("lora", "vpt", "bitfit"):
        fresh.add(name, paths[name])
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
    fresh.load_state_dict(twin.state_dict())
    assert all(torch.equal(fresh[name](pixels), expected[name]) for name in expected)
    count = len(list(fresh.parameters()))
    assert len(list(fresh.double().parameters())) == count
    for name, outputs in expected.items():
        torch.testing.assert_close(fresh[name](pixels.double()).float(), outputs, rtol=1e-4, atol=1e-4)


def test_a_design_is_saved_from_among_others_as_from_alone(make, files, images, tmp_path):
    adapters, paths = Adapters(make()), files()
    for name in METHODS:
        adapters.add(name, paths[name])
    for name in ("bitfit", "vqt"):
        save_adapter(adapters[name], tmp_path / "again.safetensors")
        again, before = load_file(tmp_path / "again.safetensors"), load_file(paths[name])
        assert read_adapter_info(tmp_path / "again.safetensors") == read_adapter_info(paths[name])
        assert again.keys() == before.keys()
        assert all(torch.equal(again[key], value) for key, value in before.items())


def test_what_cannot_be_is_refused_and_leaves_all_as_it_was(make, files, tmp_path):
    model, paths = make(), files()
    with pytest.raises(DesignError, match="has a design"):
        Adapters(apply(make(), Design()))
    adapters = Adapters(model)
    adapters.add("lora", paths["lora"])
    for name, text in (
        ("lora", "taken"),
        ("a.b", "no dot"),
        ("", "no dot"),
        ("keys", "no dot"),
        ("training", "no dot"),
    ):
        with pytest.raises(DesignError, match=text):
            adapters.add(name, Design())
    for wrong in ("none", None):
        with pytest.raises(DesignError, match="there are lora"):
            adapters.remove(wrong)
    with pytest.raises(DesignError, match="there are lora"):
        adapters.use("none")
    assert adapters.active == "lora"
    adapters.remove("lora")
    with pytest.raises(AdapterError):
        adapters.add("lora", tmp_path / "nothing.safetensors")
    with pytest.raises(DesignError):
        adapters.add("lora", Design.of([Placement("lora", 99, 1)]))
    other = make("gap")
    with pytest.raises(AdapterError):
        Adapters(other).add("lora", paths["lora"])
    assert all(p.requires_grad for p in (*model.parameters(), *other.parameters()))
    assert list(adapters) == []
    assert len(adapters) == 0
    assert "lora" not in adapters
    assert family_of(model).outputs(model) == 5
