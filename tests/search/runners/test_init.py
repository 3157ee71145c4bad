import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from petlas.search import runners as runners_module
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.run_folder import RunError
from petlas.search.runners import check_resources, check_together, choose_runner, open_runner, rooms, starting
from petlas.search.runners.inline import InlineRunner
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("resources", "rooms_", "name"),
    [
        ({"cpus": 1}, 4, "ray"),
        ({"cpus": 2}, 2, "ray"),
        ({"cpus": 3}, 1, "inline"),
        ({"cpus": 1, "concurrent": 1}, 4, "inline"),
        ({"cpus": 1, "concurrent": 2}, 4, "ray"),
        ({"cpus": 3, "address": "10.0.0.1:6379"}, 1, "ray"),
    ],
)
def test_auto_is_ray_where_two_trials_have_room_or_there_is_a_cluster(
    make: Make, resources: dict[str, Any], rooms_: int, name: str
) -> None:
    config = make(resources={"runner": "auto", "gpus": 0} | resources)
    assert rooms(config) == rooms_
    assert choose_runner(config) == name


def test_ray_is_not_started_for_a_single_piece_of_work(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(resources={"runner": "auto", "gpus": 0})
    assert [choose_runner(config, jobs) for jobs in (1, 2, None)] == ["inline", "ray", "ray"]
    assert choose_runner(make(resources={"runner": "ray"}), 1) == "ray"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_runner(config, 1) == "ray"


def test_a_cluster_can_be_named_by_the_environment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_runner(make(resources={"runner": "auto", "cpus": 4, "gpus": 0})) == "ray"
    check_resources(make(resources={"cpus": 999, "gpus": 0}))  # whatever this machine has


@pytest.mark.parametrize("name", ["inline", "ray"])
def test_a_runner_that_is_named_is_taken(make: Make, name: str) -> None:
    assert choose_runner(make(resources={"runner": name, "cpus": 4})) == name


def test_a_trial_may_be_given_a_part_of_a_gpu(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert rooms(make(resources={"cpus": 1, "gpus": 0.5})) == 2
    assert rooms(make(resources={"cpus": 1, "gpus": 1})) == 1


@pytest.mark.parametrize(("resources", "names"), [({"cpus": 5}, "5 CPUs"), ({"gpus": 2}, "2 GPUs")])
def test_a_machine_without_room_is_refused_before_the_folder_is_made_and_the_corrected_run_starts(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], names: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    options = {"search": {"trials": 1}}
    config = make(resources={"gpus": 0} | resources, **options)
    with pytest.raises(RunError, match=rf"{names}.*lower resources\.cpus or resources\.gpus"):
        search(config)
    assert not config.folder.exists()
    assert search(make(resources={"gpus": 0}, train={"epochs": 1}, **options)) is not None


def test_the_runner_is_opened_by_its_name(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_runner([Workbench(make())]) as runner:
        assert isinstance(runner, InlineRunner)
    assert set(runners_module.RUNNERS) == {"inline", "ray"}


@pytest.mark.parametrize("other", [{"runner": "ray"}, {"address": "10.0.0.1:6379"}, {"concurrent": 1}])
def test_runs_that_are_searched_together_are_done_in_one_place(make: Make, other: dict[str, Any]) -> None:
    (key,) = other
    with pytest.raises(RunError, match=rf"resources\.{key} must be the same .* of a, .* of b"):
        check_together([make(name="a"), make(name="b", resources=other)])
    check_together([make(name="a", resources=other), make(name="b", resources=other | {"cpus": 2})])


@pytest.mark.parametrize(
    ("resources", "known", "begins"),
    [
        ({"runner": "ray"}, False, True),
        ({"runner": "ray"}, True, False),
        ({"runner": "ray", "address": "10.0.0.1:6379"}, False, False),
        ({"runner": "inline"}, False, False),
    ],
)
def test_ray_begins_to_start_where_a_new_run_is_sure_to_need_one_of_its_own(
    make: Make, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], known: bool, begins: bool
) -> None:
    begun = object()
    monkeypatch.setattr("petlas.search.runners.ray.start.Start", lambda: nullcontext(begun))
    config = make(resources=resources | {"gpus": 0})
    if known:
        config.folder.mkdir(parents=True)
    with starting([config]) as start:
        assert (start is begun) == begins
