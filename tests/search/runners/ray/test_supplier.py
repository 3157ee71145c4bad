import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petlas.search.run_folder import RunError
from petlas.search.runners.ray import supplier as supplier_module
from petlas.search.runners.ray.supplier import Delivered, Sent, Supplier, by_path, enter, size_of
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for Ray's object store: a reference is a number."""
    held: list[Any] = []

    def put(thing: Any) -> int:
        held.append(thing)
        return len(held) - 1

    monkeypatch.setattr(supplier_module.ray, "put", put)
    monkeypatch.setattr(supplier_module.ray, "get", lambda ref: held[ref])
    return held


def job(bench: Workbench, *files: str) -> Any:
    return SimpleNamespace(bench=bench, views=("trainval",), files=files)


def test_each_thing_is_put_once_whatever_the_number_of_jobs_and_runs(bench: Bench, store: list[Any]) -> None:
    supplier, first, second = Supplier(paths=False), bench(), bench(seed=4)
    about = [supplier.about(job(each)) for each in (first, first, second)]
    assert len(store) == 3
    assert about[0] == about[1] == about[2]
    assert about[0]["place"] is None
    handed = Workbench(first.config, about[0]["supplies"])
    assert handed.task is first.task
    assert handed.weights == first.weights


def test_files_are_put_again_where_they_changed_and_forgotten_where_they_are_gone(
    bench: Bench, store: list[Any]
) -> None:
    found, supplier = bench(), Supplier(paths=True)
    found.files.write("a", b"1")
    first = supplier.about(job(found, "a", "b"))
    assert first["supplies"] == Delivered(())
    assert (dict(first["files"]), "b" in first["files"]) == ({"a": b"1"}, False)
    assert supplier.about(job(found, "a")) == first
    found.files.write("a", b"22")
    assert dict(supplier.about(job(found, "a"))["files"]) == {"a": b"22"}
    (found.config.folder / "a").unlink()
    assert supplier.about(job(found, "a"))["files"] == Delivered(())
    assert store == [b"1", b"22"]


def test_whoever_takes_what_was_sent_leaves_nothing_behind() -> None:
    sent: Sent = pickle.loads(pickle.dumps(Sent({"a": b"1"})))
    assert sent.taken() == {"a": b"1"}
    assert sent.taken() == {}
    assert len(pickle.dumps(sent)) < 200


def test_workers_that_open_files_do_so_where_the_driver_is(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setenv("PETLAS_DATA", "data")
    about = Supplier(paths=True).about(job(bench()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PETLAS_DATA")
    enter(None)
    assert Path.cwd() == tmp_path
    enter(about["place"])
    assert (Path.cwd(), os.environ["PETLAS_DATA"]) == (tmp_path / "there", "data")


def test_what_does_not_fit_into_a_node_is_opened_by_its_path_or_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 1, "object_store_memory": size}} for size in (3e9, 1e9)]
    idle = {"Alive": True, "Resources": {"object_store_memory": 1}}  # no worker is there
    gone = {"Alive": False, "Resources": {"CPU": 1, "object_store_memory": 1}}
    monkeypatch.setattr(supplier_module.ray, "nodes", lambda: [*nodes, idle, gone])
    few, many = 700_000_000, 900_000_000
    assert [by_path(data, few) for data in ("auto", "object_store", "path")] == [False, False, True]
    assert by_path("auto", many)
    with pytest.raises(RunError, match=r"object_store needs room for 0\.9 GB .* holds 1\.0; .*resources\.data=path"):
        by_path("object_store", many)


def test_what_runs_share_counts_once(bench: Bench) -> None:
    size = size_of([bench(), bench(seed=4)], ("trainval",))
    assert size == size_of([bench()], ("trainval",))
    assert size < size_of([bench()], ("trainval", "test"))
