import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from petlas.petl import fingerprint, load_backbone
from petlas.search.supplies import BACKBONE, TASK, images_of, packed
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


def test_a_module_that_was_packed_is_the_same_and_reads_the_parcels_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2)).double()
    module[2].weight.requires_grad_(False)
    module[2].bias = module[1].bias  # shared within the module
    module.register_buffer("rare", torch.tensor([1.5, float("nan")], dtype=torch.bfloat16), persistent=False)
    module.eval()
    parcel = pickle.loads(pickle.dumps(packed(module)))
    other = parcel.unpacked()
    for name, value in (*module.state_dict().items(), ("rare", module.rare)):
        mine = dict((*other.state_dict().items(), ("rare", other.rare)))[name]
        assert mine.dtype == value.dtype
        assert torch.equal(mine.nan_to_num(), value.nan_to_num())
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in module.parameters()]
    assert other[2].bias is other[1].bias
    assert not other.training
    assert len(parcel.skeleton) < 10_000
    first = other[0].weight
    assert any(np.shares_memory(first.detach().numpy(), array) for array in parcel.arrays)


def test_a_backbone_that_was_packed_computes_the_same() -> None:
    model = load_backbone("vit_mini_patch16_64", img_size=32)
    other = packed(model).unpacked()
    assert fingerprint(other.state_dict()) == fingerprint(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))
    assert other.pretrained_cfg == model.pretrained_cfg


def test_a_workbench_that_is_handed_all_opens_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    own, views = bench(), ("train", "val", "trainval", "test")
    handed = {supply.name: supply.make() for supply in own.supplies(("trainval", "test"))}
    assert handed.keys() == {TASK, BACKBONE, images_of("trainval"), images_of("test")}
    handed[TASK] = pickle.loads(pickle.dumps(handed[TASK]))
    expected = {view: next(iter(own.batches(own.task.views[view]))) for view in views}
    for name in ("open_task", "open_store", "load_backbone"):
        monkeypatch.setattr(f"petlas.search.workbench.{name}", lambda *args, **more: pytest.fail("opened"))
    other = Workbench(own.config, handed)
    assert other.stamp() == own.stamp()
    for view in views:
        assert other.fingerprint(other.task.views[view]) == own.fingerprint(own.task.views[view])
        found = next(iter(other.batches(other.task.views[view])))
        assert all(torch.equal(mine, ours) for mine, ours in zip(found, expected[view], strict=True))


def test_equal_things_of_several_runs_have_one_key(bench: Bench) -> None:
    keys = [
        {supply.name: supply.key for supply in bench(**groups).supplies()}
        for groups in (
            {},
            {"seed": 4},
            {"task": {"name": "digits", "metric": "mean_per_class"}},
            {"train": {"drop_path": 0.1}},
        )
    ]
    assert keys[0] == keys[1]
    assert [keys[2][name] == keys[0][name] for name in (TASK, BACKBONE, images_of("trainval"))] == [False, True, True]
    assert [keys[3][name] == keys[0][name] for name in (TASK, BACKBONE, images_of("trainval"))] == [True, False, True]
    sizes = {supply.name: supply.size for supply in bench().supplies()}
    assert sizes[images_of("trainval")] == len(bench().task.views["trainval"]) * 3 * 32 * 32
