import pickle
from collections.abc import Callable

import pytest
import torch

from petlas.search.supplies import BACKBONE, TASK, images_of
from petlas.search.supplying import supplies_of
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


def test_a_workbench_that_is_handed_all_opens_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    own, views = bench(), ("train", "val", "trainval", "test")
    handed = {supply.name: supply.make() for supply in supplies_of(own, ("trainval", "test"))}
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
        {supply.name: supply.key for supply in supplies_of(bench(**groups))}
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
    sizes = {supply.name: supply.size for supply in supplies_of(bench())}
    assert sizes[images_of("trainval")] == len(bench().task.views["trainval"]) * 3 * 32 * 32
