from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from study_cases import rows, searched

from petlas.petl.design import DesignError
from petlas.search.config import RunConfig
from petlas.search.runners.ray import pack as pack_module
from petlas.search.runners.ray.head import Head
from petlas.search.runners.ray.jobs import JobScheduler, JobSearch
from petlas.search.runners.ray.pack import PackWork
from petlas.search.runners.ray.supplier import Supplier
from petlas.search.stages.base import Proposal
from petlas.search.stages.rounds import Rounds, Turns
from petlas.search.stages.train import TrainStage
from petlas.search.strategies.base import Search
from petlas.search.study import StudyRecord, entry_of, is_interrupted
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]


@pytest.fixture
def stage(bench: Callable[..., Workbench]) -> TrainStage:
    """The trainings of a search of three trials in packs of two, with an open study."""
    found = bench(search={"trials": 3}, resources={"runner": "ray", "pack": 2})
    found.config.folder.mkdir(parents=True)
    return Search(found, StudyRecord.create(found.config.folder)).training(draws=True)


@pytest.fixture
def search(stage: TrainStage) -> JobSearch:
    rounds = Rounds([Turns(stage.bench, lambda: iter([stage]))])
    return JobSearch(rounds, lambda: 9, lambda config: config.resources, Supplier(paths=True), Head("", lambda _: True))


def tune_trial(name: str) -> Any:
    return SimpleNamespace(trial_id=name)


def epoch(number: int, value: float, **more: Any) -> dict[str, Any]:
    return {"epoch": number, "loss": 1.0, "val": value, "seconds": 0.1, "finished": False} | more


def states(stage: TrainStage) -> list[str]:
    return [trial.state.name for trial in stage.record.trials()]


def test_each_of_a_pack_is_a_trial_of_the_study_and_ends_by_itself(stage: TrainStage, search: JobSearch) -> None:
    dropped: list[list[int]] = []
    worker = SimpleNamespace(drop=SimpleNamespace(remote=dropped.append))
    assert [len(search.suggest(name)["beside"]) for name in "ab"] == [1, 0] and search.suggest("c") is None
    assert states(stage) == []
    search.start("a", worker)
    assert states(stage) == ["RUNNING"] * 2
    scheduler = JobScheduler(search)
    first = {"members": [(0, epoch(1, 0.5)), (1, epoch(1, math.nan))], "device": "cpu"}
    assert scheduler.on_trial_result(None, tune_trial("a"), first) == "CONTINUE"
    assert states(stage) == ["RUNNING", "FAIL"] and dropped == [[1]]
    assert scheduler.on_trial_result(None, tune_trial("a"), {"members": [], "device": "cpu"}) == "CONTINUE"
    last = {"members": [(0, {"error": "E: e", "fault": False, "starved": False})], "device": "cpu"}
    assert scheduler.on_trial_result(None, tune_trial("a"), last) == "STOP"
    search.on_trial_complete("a", last)
    one, other = stage.record.trials()
    assert (one.state.name, one.user_attrs["error"], one.intermediate_values) == ("FAIL", "E: e", {1: 0.5})
    assert (other.state.name, other.user_attrs["error"]) == ("FAIL", "the loss is not finite")
    assert dropped == [[1]] and not {"a"} & search.jobs.keys()


def test_in_the_place_of_one_that_ended_another_one_joins(stage: TrainStage, search: JobSearch) -> None:
    calls: list[Any] = []
    worker = SimpleNamespace(
        drop=SimpleNamespace(remote=calls.append),
        join=SimpleNamespace(remote=lambda proposals, files: calls.extend((proposals, dict(files)))),
    )
    search.suggest("a")
    search.start("a", worker)
    first = {"members": [(0, epoch(1, 0.5)), (1, epoch(1, math.nan))], "device": "cpu"}
    assert JobScheduler(search).on_trial_result(None, tune_trial("a"), first) == "CONTINUE"
    assert states(stage) == ["RUNNING", "FAIL", "RUNNING"] and search.suggest("b") is None
    dropped, (joined,), files = calls
    assert dropped == [1] and files == {}
    assert joined["entry"]["key"] == stage.record.trials()[2].user_attrs["key"]
    search.on_trial_complete("a", {"members": [(0, epoch(2, 0.5)), (2, epoch(2, 0.7))], "device": "cpu"})
    assert [trial.values for trial in stage.record.trials()] == [[0.5], None, [0.7]]


def test_what_all_of_a_pack_end_with_is_told_once(stage: TrainStage, search: JobSearch) -> None:
    search.suggest("a")
    search.start("a")
    search.on_trial_complete("a", {"members": [(n, epoch(3, 0.5 + n, finished=True)) for n in range(2)], "device": "x"})
    assert [(trial.state.name, trial.values, trial.user_attrs["device"]) for trial in stage.record.trials()] == [
        ("COMPLETE", [0.5], "x"),
        ("COMPLETE", [1.5], "x"),
    ]


@pytest.mark.parametrize("how", ["died", "broke", "failed"])
def test_all_of_a_pack_that_is_lost_are_tried_again_one_by_one(
    stage: TrainStage, search: JobSearch, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """One of them may be to blame, and the others are not to fail with it."""
    monkeypatch.setattr("petlas.search.runners.ray.jobs.alone", lambda resources: {"CPU": 8})
    monkeypatch.setattr("petlas.search.runners.ray.jobs._ended_oddly", lambda worker: True)
    search.suggest("a")
    search.start("a")
    if how == "died":
        search.on_trial_complete("a", None, error=True)
    elif how == "broke":
        search.on_break(ActorDiedError())
    else:
        search.on_trial_complete("a", {"epoch": 0, "error": "E: e", "fault": False, "starved": False})
    assert [is_interrupted(trial) for trial in stage.record.trials()] == [True] * 2
    assert [stage.record.losses(entry_of(trial)) for trial in stage.record.trials()] == [0, 0]
    before = [trial.user_attrs["key"] for trial in stage.record.trials()]
    again = [search.suggest(name) for name in "bcd"]
    assert [(config["beside"], config["needs"]["CPU"]) for config in again] == [([], 8), ([], 8), ([], 1)]
    for name in "bc":
        search.start(name)
    assert [trial.user_attrs["key"] for trial in stage.record.trials()] == before * 2


def test_who_is_to_be_by_itself_joins_no_pack_of_others(
    stage: TrainStage, search: JobSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it would be lost with them, and they with it, again."""
    monkeypatch.setattr("petlas.search.runners.ray.jobs.alone", lambda resources: {"CPU": 8})
    for name in "ab":
        search.suggest(name)
        search.start(name)
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("b", None, error=True)  # what it did goes before them
    again = [search.suggest(name) for name in "cde"]
    assert [(config["beside"], config["needs"]["CPU"]) for config in again] == [([], 1), ([], 8), ([], 8)]


def test_a_fault_of_the_surroundings_is_held_against_none(stage: TrainStage, search: JobSearch) -> None:
    search.suggest("a")
    search.start("a", SimpleNamespace(drop=SimpleNamespace(remote=id)))
    broken = {"members": [(1, {"error": "image 7 is cut off", "fault": True, "starved": False})], "device": "cpu"}
    JobScheduler(search).on_trial_result(None, tune_trial("a"), broken)
    search.on_trial_complete("a", broken, error=True)
    assert stage.fault == "image 7 is cut off" and all(map(is_interrupted, stage.record.trials()))


def test_a_worker_does_several_and_says_how_each_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Packed:
        def __init__(self, bench: Any, proposals: list[Proposal]) -> None:
            assert [proposal.number for proposal in proposals] == [0, 1, 2, 3]
            self.left = [0, 1, 2, 3]

        def add(self, proposals: list[Proposal]) -> None:
            self.left += [proposal.number for proposal in proposals]

        def epoch(self) -> dict[int, Any]:
            found: dict[int, Any] = {number: EpochResult(1, 1.0, 0.5, 0.1) for number in self.left}
            return found | ({3: DesignError("no such block")} if 3 in self.left else {})

        def finished(self, number: int) -> bool:
            return number == 2

        def drop(self, number: int) -> None:
            self.left.remove(number)

    monkeypatch.setattr(pack_module, "open_packed", Packed)
    work = PackWork(None, [Proposal(-1, None, "train")] * 4)  # type: ignore[arg-type]
    found = dict(work.epoch())
    assert found[3] == {"error": "no such block", "fault": False, "starved": False}
    assert [found[number]["finished"] for number in range(3)] == [False, False, True]
    work.drop([0, 3])
    assert [number for number, _ in work.epoch()] == [1] and not work.finished
    work.add([Proposal(-1, None, "train")] * 2)
    assert [number for number, _ in work.epoch()] == [1, 4, 5]
    work.drop([1, 4, 5])
    assert work.finished
    monkeypatch.setattr(Packed, "add", lambda self, proposals: proposals[9])
    work.add([Proposal(-1, None, "train")])  # nobody would see it raised
    with pytest.raises(IndexError):
        work.epoch()


def test_packs_through_ray_learn_what_trials_learn_alone_and_a_worker_that_dies_gives_all_back(
    local_ray: str, make: Make, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"search": {"trials": 3}, "train": {"epochs": 2, "batch_size": 40, "amp": "off"}}
    options |= {"task": {"name": few_digits}}
    alone, killed = rows(searched(make(name="alone", **options))), list[int]()
    on_trial_result = JobScheduler.on_trial_result

    def kill_once(scheduler: JobScheduler, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = on_trial_result(scheduler, controller, trial, result)
        if "members" in result and not killed:
            killed.append(len(result["members"]))
            os.kill(result["pid"], signal.SIGKILL)
        return decision

    monkeypatch.setattr(JobScheduler, "on_trial_result", kill_once)
    record = searched(make(name="packs", resources={"runner": "ray", "pack": 2}, **options))
    assert killed == [2] and [is_interrupted(trial) for trial in record.trials()].count(True) == 2
    found = {trial.user_attrs["key"]: trial for trial in record.trials() if not is_interrupted(trial)}
    assert len(found) == len(alone) == 3
    for _, state, key, values, intermediate, _ in alone:
        assert found[key].state.name == state and found[key].values == pytest.approx(values, abs=1e-5)
        assert found[key].intermediate_values == pytest.approx(intermediate, abs=1e-5)
