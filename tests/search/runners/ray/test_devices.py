"""No GPU is here: Ray's are logical, and what a worker measures is replaced."""

from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.config import ResourcesConfig
from petlas.search.runners.ray import devices as devices_module
from petlas.search.runners.ray.devices import resolved, room
from petlas.search.runners.ray.supplier import Supplier
from petlas.search.runners.share import Footprint
from petlas.search.stages.packing import pack_size
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Nodes with so many CPUs and GPUs."""

    def cluster(*nodes: tuple[float, float]) -> None:
        found = [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in nodes]
        dead = {"Alive": False, "Resources": {"CPU": 99, "GPU": 99}}
        monkeypatch.setattr(devices_module.ray, "nodes", lambda: [*found, dead])

    return cluster


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([(4, 0)], 1, 0, 4),
        ([(3, 0), (3, 0)], 2, 0, 2),  # 6 CPUs in all, and yet not three times two
        ([(8, 4)], 1, 0.5, 8),
        ([(8, 2)], 1, 0.4, 4),  # two on each GPU
        ([(1, 4), (16, 1)], 1, 1, 2),
        ([(16, 1), (16, 0)], 4, 0.25, 4),
        ([(16, 3)], 1, 2, 1),
        ([(1, 0)], 2, 0, 0),
    ],
)
def test_a_trial_is_on_one_node_and_a_share_is_of_one_gpu(
    cluster: Callable[..., None], nodes: Any, cpus: int, gpus: float, expected: int
) -> None:
    cluster(*nodes)
    assert room(ResourcesConfig(cpus=cpus, gpus=gpus)) == expected


def test_the_share_that_is_left_open_is_resolved_once_and_changes_nothing_that_must_be_equal(
    cluster: Callable[..., None], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []

    def measure(work: Workbench, supplier: Supplier) -> Footprint | None:
        measured.append(work)
        return found[0]

    found: list[Footprint | None] = [Footprint(5, 24)]
    monkeypatch.setattr(devices_module, "_measured", measure)
    supplier, work = Supplier(paths=True), bench()
    cluster((16, 0))
    assert resolved(work, supplier).resources.gpus == 0
    assert measured == []
    cluster((16, 0), (16, 2), (8, 4))  # the last has two CPUs for a GPU
    config = resolved(work, supplier)
    assert config.resources.gpus == 0.5
    assert config.model_copy(update={"resources": work.config.resources}) == work.config
    cluster((16, 1))
    assert resolved(work, supplier).resources.gpus == 0.25
    found[0] = None
    assert resolved(work, supplier).resources.gpus == 1
    said = bench(resources={"gpus": 0.3})
    assert resolved(said, supplier) == said.config
    assert len(measured) == 3


def test_whether_packs_win_is_measured_by_a_worker_and_counts_for_the_share(
    cluster: Callable[..., None], bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    def by_worker(task: Any, work: Workbench, supplier: Supplier, gpus: float, what: str) -> Any:
        asked.append((gpus, what))
        if len(asked) == 4:
            return None
        return (4, "packs: on, at 1.50 times the steps per second") if "packs" in what else (1, 24)

    monkeypatch.setattr(devices_module, "_by_worker", by_worker)
    cluster((32, 1))
    supplier, work = Supplier(paths=True), bench(resources={"pack": "auto"})
    assert resolved(work, supplier).resources.gpus == 0.0625 and work.pack is None
    with caplog.at_level("INFO", "petlas"):
        assert resolved(work, supplier, packs=True).resources.gpus == 0.25 and pack_size(work) == 4
    assert asked == [(1.0, "how much memory a trial needs"), (1.0, "whether packs win"), asked[0]]
    assert "packs: on, at 1.50 times" in caplog.text
    failing = bench(resources={"pack": "auto", "gpus": 0})
    assert resolved(failing, supplier, packs=True) == failing.config and pack_size(failing) == 1
    assert asked[3:] == [(0, "whether packs win")]
