import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from petlas.datasets import DataError
from petlas.errors import UserError
from petlas.petl import BackboneError, DesignError, load_backbone
from petlas.petl.mini import mini_file
from petlas.search import workbench as module
from petlas.search.config import RunConfig
from petlas.search.objectives import ObjectiveError
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench, shared_workbench
from petlas.spaces import SpaceError

Bench = Callable[..., Workbench]
MINI = "vit_mini_patch16_64"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes of noise."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index:02}.png")
    return tmp_path / "pets"


def test_each_thing_is_resolved_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for name in ("open_task", "open_store", "shape_by_name"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, real=real, name=name, **more: opened.append(name) or real(*args, **more)
        )
    work = bench()
    for _ in range(2):
        assert work.task.name == "digits"
        assert work.objective.metric.name == "accuracy"
        assert work.cost(work.space.largest) > work.cost(work.space.smallest)
        assert len(work.batches(work.task.views["train"])) == 800
        assert len(work.batches(work.task.views["val"])) == 200
    assert sorted(opened) == ["open_store", "open_task", "shape_by_name"]


def test_the_weights_are_read_once_in_a_process_and_copies_are_independent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._read_backbone.cache_clear()
    read: list[str] = []
    monkeypatch.setattr(
        module, "load_backbone", lambda name, *a, **k: read.append(name) or load_backbone(name, *a, **k)
    )
    work = bench()
    one, other = work.backbone(), bench().backbone()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert read == [MINI]
    assert all(
        p.abs().sum() > 0 for p in (other, work.backbone()) for p in [p.get_parameter("blocks.0.attn.qkv.weight")]
    )
    assert not isinstance(one.get_submodule("head"), nn.Linear)


def test_a_weights_file_that_was_replaced_is_read_anew(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    state = {key: value.clone() for key, value in load_backbone(MINI, img_size=32).state_dict().items()}
    backbone = {"name": MINI, "img_size": 32, "checkpoint": str(file)}
    save_file(state, str(file))
    before = bench(backbone=backbone).weights
    state["blocks.0.norm1.bias"] += 1
    file.unlink()
    save_file(state, str(file))
    after = bench(backbone=backbone).weights
    assert before != after
    assert bench(backbone=backbone).weights == after


def test_drop_path_is_in_the_backbone_that_is_trained(bench: Bench) -> None:
    model = bench(train={"drop_path": 0.3}).backbone()
    assert model.get_submodule("blocks.5.drop_path1").drop_prob == pytest.approx(0.3)
    assert isinstance(bench().backbone().get_submodule("blocks.5.drop_path1"), nn.Identity)


def test_views_have_the_backbones_image_size_and_a_batch_size(bench: Bench) -> None:
    work = bench()
    data = work.batches(work.task.views["val"], 64)
    assert data.batch(slice(0, 3))[0].shape == (3, 3, 32, 32)
    assert len(data) == 200
    assert [len(labels) for _, labels in data] == [64, 64, 64, 8]


def test_the_batches_of_a_view_are_its_own_images(bench: Bench) -> None:
    """Each image is stored once, and views are indices into the store."""
    work = bench()
    for name in ("train", "val", "trainval", "test"):
        view = work.task.views[name]
        pixels, targets = work.batches(view).batch(slice(0, 5))
        images = [
            view.source.image(int(index)).resize((32, 32), Image.Resampling.BICUBIC) for index in view.indices[:5]
        ]
        raw = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
        mean, std = (np.reshape(value, (1, 3, 1, 1)) for value in (work.inputs.mean, work.inputs.std))
        np.testing.assert_allclose(pixels.numpy(), (raw / 255 - mean) / std, atol=1e-5)
        assert targets.tolist() == view.targets[:5].tolist()


def test_splits_do_not_depend_on_the_runs_seed(bench: Bench, folder: Path) -> None:
    """Under another seed most test images were once trained on."""
    tests = [bench(task={"name": str(folder)}, seed=seed).task.views["test"].source.names for seed in (0, 1)]
    assert tests[0] == tests[1]
    other = bench(task={"name": str(folder), "split_seed": 1}).task.views["test"].source.names
    assert other != tests[0]


def test_folds_are_the_same_for_all_seeds_and_made_once(bench: Bench) -> None:
    views = [bench(seed=seed).views(Fidelity(1, seed, 1, 4)) for seed in (0, 1)]
    for one, other in zip(*views, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
    work = bench()
    assert work.views(Fidelity(1, 0, 1, 4)) is work.views(Fidelity(9, 5, 1, 4))
    train, val = work.views(Fidelity(1, 0))
    assert (train, val) == (work.task.views["train"], work.task.views["val"])
    assert work.views(Fidelity(1, 0), "trainval", "test")[1] is work.task.views["test"]


def test_a_repeat_deals_the_images_anew_and_the_first_deal_is_the_task_s(bench: Bench) -> None:
    work = bench()
    first, again, third = ([work.views(Fidelity(1, 0, f, 4, r))[1].indices for f in range(4)] for r in range(3))
    split_seed = work.config.task.split_seed
    for (_, held), indices in zip(work.task.folds(4, split_seed), first, strict=True):
        np.testing.assert_array_equal(held.indices, indices)
    for deal in (again, third):
        np.testing.assert_array_equal(np.sort(np.concatenate(deal)), np.sort(np.concatenate(first)))
    pairs = [(first, again), (first, third), (again, third)]
    shared = [len(np.intersect1d(one[0], other[0])) for one, other in pairs]
    assert all(40 < count < 90 for count in shared)  # a quarter of 250 by chance
    other = bench(seed=3).views(Fidelity(1, 3, 0, 4, 1))[1].indices
    np.testing.assert_array_equal(other, again[0])


def test_the_configuration_comes_before_the_normalisation_of_the_name(bench: Bench) -> None:
    given = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    work, plain = bench(backbone={"name": MINI, "img_size": 32} | given), bench()
    assert (work.inputs.mean, work.inputs.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (work.inputs.interpolation, work.inputs.size) == ("bilinear", 32)
    assert plain.inputs.mean == (0.5, 0.5, 0.5)
    view = work.task.views["val"]
    pixels, plain_pixels = (w.batches(view).batch(slice(0, 1))[0] for w in (work, plain))
    assert not torch.allclose(pixels, plain_pixels)


def test_images_keep_their_shape_where_that_is_asked_for(bench: Bench) -> None:
    """The mini ViT's weights are evaluated on whole images; a share is as it is given."""
    own = {"name": MINI, "img_size": 32}
    found = [bench(backbone=own | more) for more in ({}, {"crop": "auto"}, {"crop": 0.5})]
    assert [work.inputs.crop for work in found] == [None, 1.0, 0.5]
    centre, whole = (np.asarray(work.batches(work.task.views["val"]).raw(slice(0, 20))) for work in found[:0:-1])
    assert (centre != whole).any()
    assert len({str(work.stamp()) for work in found}) == 3


def test_a_stamp_names_what_determines_the_numbers(bench: Bench) -> None:
    stamp = bench().stamp(what="test")
    assert stamp == bench().stamp(what="test")
    changes = [
        {"train": {"lr": 0.5}},
        {"backbone": {"name": MINI, "img_size": 48}},
        {"backbone": {"name": MINI, "img_size": 32, "std": [1, 1, 1]}},
        {"train": {"amp": "bf16"}},
    ]
    stamps = [str(bench(**change).stamp(what="test")) for change in changes]
    assert len({str(stamp), *stamps}) == len(changes) + 1
    assert bench(seed=3).stamp() == bench().stamp()  # what the seed is of is the caller's to say


def test_fingerprints_tell_views_apart_and_are_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    work = bench()
    prints = {name: work.fingerprint(work.task.views[name]) for name in ("train", "val", "trainval")}
    assert len(set(prints.values())) == 3
    monkeypatch.setattr(type(work.task.views["train"]), "fingerprint", None)
    assert work.fingerprint(work.task.views["train"]) == prints["train"]


def test_what_is_odd_about_the_data_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.open_task
    monkeypatch.setattr(module, "open_task", lambda *a, **k: replace(real(*a, **k), notes=("3 files left out", "odd")))
    work = bench()
    with caplog.at_level(logging.WARNING, "petlas"):
        work.check()
        _ = work.task
    assert [record.getMessage() for record in caplog.records] == ["task digits: 3 files left out", "task digits: odd"]


def test_a_sound_configuration_passes(bench: Bench) -> None:
    bench(budget={"params": 2000}).check(test=True)


def faults() -> dict[str, tuple[dict[str, object], type[Exception], str]]:
    wide = {"methods": {"sct": {"blocks": [0], "sizes": [500]}}}
    return {
        "task": ({"task": "nothing"}, DataError, "nothing"),
        "metric": ({"task": {"name": "digits", "metric": "mAP"}}, ObjectiveError, "accuracy, mean_per_class"),
        "backbone": ({"backbone": "vit_nothing"}, BackboneError, "vit_nothing"),
        "weights": ({"backbone": {"name": MINI, "checkpoint": "gone.pth"}}, BackboneError, "gone.pth"),
        "budget": (
            {"budget": {"params": 1}, "space": {"methods": {"lora": {"blocks": [0], "sizes": [1]}}}},
            SpaceError,
            "budget of 1",
        ),
        "space": ({"space": wide}, DesignError, "128 channels"),
    }


@pytest.mark.parametrize("name", faults())
def test_what_is_wrong_with_the_surroundings_is_told_by_the_check(bench: Bench, name: str) -> None:
    groups, kind, message = faults()[name]
    work = bench(**groups)
    with pytest.raises(kind, match=message) as caught:
        work.check()
    assert isinstance(caught.value, UserError)


def test_images_of_no_class_to_measure_on_are_told_by_the_check(bench: Bench) -> None:
    """Otherwise every candidate would fail with NaN, as if by its own fault."""
    work = bench()
    views = {
        name: replace(view, targets=(np.arange(3) == view.targets[:, None] % 3) & (name != "val"))
        for name, view in work.task.views.items()
    }
    work.task = replace(work.task, kind="multi_label", classes=("a", "b", "c"), views=views)
    with pytest.raises(ObjectiveError, match="mAP needs images of some class, and val of task digits has 200 of none"):
        work.check()


@pytest.mark.parametrize(("view", "test"), [("trainval", False), ("test", True)])
def test_one_image_that_cannot_be_read_is_named_before_anything_is_trained(
    bench: Bench, folder: Path, view: str, test: bool
) -> None:
    source = bench(task=str(folder)).task.views[view].source
    broken = folder / source.names[3]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=broken.name) as caught:
        bench(task=str(folder)).check(test)
    assert "\n" not in str(caught.value)
    if test:
        bench(task=str(folder)).check()


def test_the_images_and_the_weights_of_a_run_are_found_from_another_folder(
    make: Callable[..., RunConfig], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(mini_file(MINI), folder.parent / "own.safetensors")
    monkeypatch.chdir(folder.parent)
    config = make(task=folder.name, backbone={"name": MINI, "checkpoint": "own.safetensors"})
    here = Workbench(config)
    monkeypatch.chdir("/")
    there = Workbench(config)
    assert (there.task.fingerprint, there.weights) == (here.task.fingerprint, here.weights)


def test_workers_share_one_workbench_for_each_run(bench: Bench) -> None:
    text = bench().config.model_dump_json()
    assert shared_workbench(text) is shared_workbench(text)
    assert shared_workbench(text).config == bench().config
    assert shared_workbench(bench(seed=4).config.model_dump_json()) is not shared_workbench(text)
