"""Ray takes seconds to start, so one local Ray serves the searches in this process, and one test starts its own."""

import logging
import math
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petlas import petl
from petlas.datasets import DataError
from petlas.petl.design import Design
from petlas.search.config import RunConfig, load_config
from petlas.search.driver import search, search_together
from petlas.search.run_folder import RunError
from petlas.search.runners import ray as ray_module
from petlas.search.runners.ray import FaultStopper, JobScheduler, JobSearch, Starts, TrialWorker
from petlas.search.stages.base import MOST_LOSSES, Proposal, SearchStopped
from petlas.search.stages.rounds import Rounds, Turns
from petlas.search.stages.train import TrainStage, whole
from petlas.search.strategies.base import Search
from petlas.search.study import SEARCH, StorageError, StudyRecord, entry_of, is_interrupted
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]
RAY = {"runner": "ray"}


@pytest.fixture
def started(bench: Callable[..., Workbench]) -> Callable[..., TrainStage]:
    """The stage of trainings of a search with an open study."""

    def started(**groups: Any) -> TrainStage:
        found = bench(**groups)
        found.config.folder.mkdir(parents=True)
        return Search(found, StudyRecord.create(found.config.folder)).training(draws=True)

    return started


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of the small backbone as a file of the user's."""
    (mini,) = (Path(petl.__path__[0]) / "mini").glob("*.safetensors")
    return Path(shutil.copy(mini, tmp_path / "weights.safetensors"))


Started = Callable[..., TrainStage]


def run(config: RunConfig) -> StudyRecord:
    search(config)
    return StudyRecord.read(config.folder)


def rows(record: StudyRecord) -> list[tuple[Any, ...]]:
    """What a study says, without the clock."""
    return [
        (t.number, t.state.name, t.user_attrs["key"], t.values, t.intermediate_values, t.user_attrs.get("epochs"))
        for t in record.trials()
    ]


def test_a_search_through_ray_is_the_search_in_this_process(local_ray: None, make: Make) -> None:
    options = {"train": {"epochs": 3, "batch_size": 100, "lr": 5e-3}, "search": {"trials": 6, "grace_epochs": 1}}
    config = make(name="ray", resources=RAY, **options)
    through_ray = run(config)
    inline = run(make(name="inline", **options))
    assert rows(through_ray) == rows(inline)
    states = Counter(row[1] for row in rows(through_ray))
    assert states.keys() == {"COMPLETE", "PRUNED"}
    assert sum(states.values()) == 6
    for _, state, _, values, intermediate, epochs in rows(through_ray):
        assert list(intermediate) == list(range(1, epochs + 1))
        assert (values[0] if state == "COMPLETE" else None) == (intermediate[3] if state == "COMPLETE" else None)
        assert state == "COMPLETE" or epochs == 1
    assert not (config.folder / "ray").exists()
    assert {t.user_attrs["device"] for t in (*through_ray.trials(), *inline.trials())} == {"cpu"}


def test_nan_fails_through_ray_and_the_search_goes_on(local_ray: None, make: Make) -> None:
    record = run(make(train={"lr": 1e30, "clip_grad": None, "batch_size": 200}, search={"trials": 2}, resources=RAY))
    assert [row[1] for row in rows(record)] == ["FAIL", "FAIL"]
    assert all(t.user_attrs["error"] == "the loss is not finite" for t in record.trials())


def test_a_trial_that_needs_more_than_there_is_is_refused(
    local_ray: None, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)  # this machine's own count is no limit of a cluster
    with pytest.raises(RunError, match=r"lower resources\.cpus"):
        run(make(resources=RAY | {"cpus": 999}))


def test_a_worker_that_is_killed_is_replaced_and_the_search_ends_as_if_it_had_not_been(
    local_ray: None, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"train": {"epochs": 2, "batch_size": 200}, "search": {"trials": 3, "grace_epochs": 1}}
    calm = rows(run(make(name="calm", **options)))
    pids: list[int] = []
    on_trial_result = JobScheduler.on_trial_result

    def kill_once(scheduler: JobScheduler, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = on_trial_result(scheduler, controller, trial, result)
        if scheduler._search.jobs[trial.trial_id].proposal.number == 1 and not pids:
            pids.append(result["pid"])
            os.kill(result["pid"], signal.SIGKILL)
        return decision

    monkeypatch.setattr(JobScheduler, "on_trial_result", kill_once)
    record = run(make(name="stormy", resources=RAY, **options))
    assert len(pids) == 1
    stormy, lost = rows(record), record.trials()[1]
    assert is_interrupted(lost)
    assert lost.user_attrs["error"] == "the worker died"
    assert record.count_trained() == 3
    assert [row[1:] for row in stormy if row[0] != 1] == [row[1:] for row in calm]


def test_weights_that_are_gone_when_a_worker_wants_them_stop_the_search_and_use_no_trial(
    local_ray: None, make: Make, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(
        backbone={"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": str(weights)},
        train={"epochs": 1, "batch_size": 400},
        search={"trials": 2},
        resources=RAY,
    )
    begin, away = StudyRecord.begin, weights.with_name("elsewhere")

    def take_away(record: StudyRecord, *args: Any) -> int:
        weights.rename(away)
        return begin(record, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StudyRecord, "begin", take_away)
        with pytest.raises(SearchStopped, match=weights.name):
            search(config)
    (trial,) = StudyRecord.read(config.folder).trials()
    assert is_interrupted(trial)
    away.rename(weights)
    record = run(config)
    assert [t.state.name for t in record.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert entry_of(record.trials()[1]) == entry_of(trial)


@pytest.fixture
def worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialWorker]:
    """Tune's worker in this process, which does what `open_work` is replaced by."""
    monkeypatch.setattr(logging.getLogger("petlas"), "disabled", True)

    def worker(open_work: Callable[..., Any], proposal: Proposal) -> TrialWorker:
        monkeypatch.setattr(ray_module, "open_work", open_work)
        found: TrialWorker = object.__new__(TrialWorker)
        found.config = about(proposal, make())
        found.setup(found.config)
        return found

    return worker


def about(proposal: Proposal, config: RunConfig) -> dict[str, Any]:
    """What travels to a worker."""
    return proposal.to_config() | {"run": config.model_dump_json(), "needs": {"CPU": 1}, "limit": None}


def proposal(bench: Workbench, number: int, design: Design) -> Proposal:
    return Proposal(number, whole(bench, Candidate(design), SEARCH), "train")


def test_a_fault_of_a_design_fails_this_trial_and_the_worker_stays(
    worker: Callable[..., TrialWorker], bench: Callable[..., Workbench], lora: Callable[..., Design]
) -> None:
    class Fragile:
        def __init__(self, bench: Workbench, proposal: Proposal) -> None:
            if proposal.entry.candidate.design.placements:
                raise MemoryError("too large")
            self.finished = True

        def epoch(self) -> EpochResult:
            return EpochResult(1, 1.0, 0.5, 0.1)

    found = worker(Fragile, proposal(bench(), 0, lora(b0=1)))
    result = found.step()
    assert result["done"]
    assert (result["error"], result["fault"]) == ("MemoryError: too large", False)
    assert math.isnan(result["val"])
    found.config = about(proposal(bench(), 1, lora()), bench().config)
    assert found.reset_config(found.config)
    result = found.step()
    assert (result["done"], result["val"], result["device"]) == (True, 0.5, "cpu")
    assert "error" not in result


def test_a_fault_of_the_surroundings_is_told_as_such(
    worker: Callable[..., TrialWorker], bench: Callable[..., Workbench], lora: Callable[..., Design]
) -> None:
    def gone(bench: Workbench, proposal: Proposal) -> None:
        raise DataError("image 7 is cut off")

    result = worker(gone, proposal(bench(), 0, lora(b0=1))).step()
    assert (result["done"], result["error"], result["fault"]) == (True, "image 7 is cut off", True)


@pytest.mark.parametrize(
    ("result", "reason", "values"),
    [
        ({"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0, "error": "E: e"}, "E: e", {}),
        ({"epoch": 2, "loss": math.nan, "val": math.nan, "seconds": 0.1}, "the loss is not finite", {}),
    ],
)
def test_a_trial_that_ended_badly_is_a_failure_with_its_reason(
    started: Started, result: dict[str, Any], reason: str, values: dict[int, float]
) -> None:
    stage = started(search={"trials": 1})
    searcher = search_of(stage)
    assert searcher.suggest("a")["work"] == "train"
    assert stage.record.trials() == []
    assert searcher.suggest("b") is None
    searcher.start("a")
    assert [t.state.name for t in stage.record.trials()] == ["RUNNING"]
    searcher.on_trial_complete("a", result, False)
    assert searcher.suggest("b") == "FINISHED"
    (trial,) = stage.record.trials()
    assert (trial.state.name, trial.user_attrs["error"]) == ("FAIL", reason)
    assert trial.intermediate_values == values


@pytest.mark.parametrize(
    ("result", "values"), [(None, {}), ({"epoch": 1, "loss": 1.0, "val": 0.5, "seconds": 0.1}, {1: 0.5})]
)
def test_a_trial_whose_worker_died_each_time_is_a_failure_with_its_reason(
    started: Started, result: dict[str, Any] | None, values: dict[int, float]
) -> None:
    """And until then it is tried again, with the values that it had."""
    stage = started(search={"trials": 1})
    searcher = search_of(stage)
    scheduler = JobScheduler(searcher)
    for number in range(MOST_LOSSES):
        assert not stage.exhausted()
        searcher.suggest(f"t{number}")
        searcher.start(f"t{number}")
        if result is not None:
            scheduler.on_trial_result(None, tune_trial(f"t{number}"), result)
        searcher.on_trial_complete(f"t{number}", result, True)
    assert stage.exhausted()
    *lost, failed = stage.record.trials()
    assert all(is_interrupted(trial) for trial in lost)
    assert (failed.state.name, failed.user_attrs["error"]) == ("FAIL", f"the worker died, {MOST_LOSSES} times")
    assert failed.intermediate_values == values
    assert stage.record.count_trained() == 1


def search_of(stage: TrainStage, most: int = 99) -> JobSearch:
    """What Tune asks, of a single run of one stage."""
    return JobSearch(Rounds([Turns(stage.bench, lambda: iter([stage]))]), lambda: most)


def tune_trial(name: str) -> Any:
    return SimpleNamespace(trial_id=name)


def test_the_scheduler_stops_what_the_stage_stops(started: Started) -> None:
    stage = started(search={"grace_epochs": 1})
    searcher = search_of(stage)
    scheduler, decisions = JobScheduler(searcher), []
    for name, val in (("a", 0.5), ("b", 0.6), ("c", 0.4), ("d", math.nan)):
        searcher.suggest(name)
        Starts(searcher).on_trial_start(0, [], tune_trial(name))
        result = {"epoch": 1, "loss": 1.0, "val": val, "seconds": 0.1}
        decisions.append(scheduler.on_trial_result(None, tune_trial(name), result))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "STOP"]


def test_a_fault_of_the_surroundings_ends_the_trials_beside_it_and_they_count_as_never_tried(started: Started) -> None:
    stage = started(search={"trials": 5})
    searcher = search_of(stage)
    stopper = FaultStopper(searcher.rounds)
    for name in "abw":
        searcher.suggest(name)
    for name in "ab":
        searcher.start(name)
    assert not stopper("a", {})
    assert not stopper.stop_all()
    broken = {"epoch": 0, "val": math.nan, "error": "image 7 is cut off", "fault": True}
    searcher.on_trial_complete("a", broken)
    assert stopper.stop_all()
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b", {"epoch": 1, "loss": 1.0, "val": 0.5, "seconds": 0.1})
    searcher.on_trial_complete("w")
    assert searcher.suggest("c") == "FINISHED"
    assert stage.fault == "image 7 is cut off"
    assert [is_interrupted(trial) for trial in stage.record.trials()] == [True, True]
    assert stage.record.count_trained() == 0


def test_tunes_snapshots_hold_nothing_of_the_study(started: Started) -> None:
    search = search_of(started())
    for part in (search, JobScheduler(search), FaultStopper(search.rounds), Starts(search)):
        assert pickle.loads(pickle.dumps(part)).__dict__ == {}


def test_without_an_address_ray_is_this_searchs_own_even_beside_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_module.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(ray_module.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_module, "_knock", lambda address: None)
    shared = []
    for address in (None, "10.0.0.1:6379"):
        with ray_module._cluster(address) as others:
            shared.append(others)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    with ray_module._cluster(None) as others:
        shared.append(others)
    assert shared == [False, True, True]
    assert [options["address"] for options in asked] == ["local", "10.0.0.1:6379", "10.0.0.2:6379"]
    assert ["object_store_memory" in options for options in asked] == [True, False, False]


@pytest.mark.parametrize("by", ["setting", "environment"])
@pytest.mark.parametrize(
    ("listens", "answer", "why"),
    [(False, b"", "refused"), (True, b"", "timed out"), (True, b"HTTP/1.1 400 Bad Request", "is not Ray")],
    ids=["nobody", "a server that hangs", "another service"],
)
def test_a_cluster_that_is_not_there_is_the_users_fault_and_told_at_once(
    monkeypatch: pytest.MonkeyPatch, by: str, listens: bool, answer: bytes, why: str
) -> None:
    monkeypatch.setattr(ray_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_module.ray, "init", lambda **options: pytest.fail("Ray would try for minutes"))
    monkeypatch.setattr(ray_module, "_KNOCKS_FOR", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{server.getsockname()[1]}"
        if listens:
            server.listen()
        if answer:
            threading.Thread(target=lambda: server.accept()[0].sendall(answer), daemon=True).start()
        if by == "environment":
            monkeypatch.setenv("RAY_ADDRESS", place)
        with (
            pytest.raises(
                RunError, match=rf"running cluster, got '{place}' \(.*{why}.*start one with ray start --head"
            ),
            ray_module._cluster(place if by == "setting" else None),
        ):
            pass


def test_rays_own_servers_answer(local_ray: None) -> None:
    ray_module._knock(ray_module.ray.get_runtime_context().gcs_address)


def test_that_ray_finds_no_cluster_is_told_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nSee the manual")

    monkeypatch.setattr(ray_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_module.ray, "init", refuse)
    with (
        pytest.raises(RunError, match=r"got 'auto' \(Could not find any running Ray instance\.\); start one"),
        ray_module._cluster("auto"),
    ):
        pass


def test_rays_own_signal_handlers_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_over(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *args: None)

    monkeypatch.setattr(ray_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_module.ray, "init", take_over)
    monkeypatch.setattr(ray_module.ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with ray_module._cluster(None):
        assert signal.getsignal(signal.SIGTERM) is before


def finished(folder: Path) -> int:
    """Finished trials in a study that another process writes."""
    with suppress(StorageError):
        return sum(t.state.is_finished() for t in StudyRecord.read(folder).trials())
    return 0


def of_session(session: int) -> list[int]:
    """The processes of a session that are still alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, _group, of = entry.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append(int(entry.parent.name))
    return found


def clean_up(session: int) -> None:
    """Give the processes of a killed driver time to see that it is gone, and end those that do not."""
    until = time.monotonic() + 20
    while of_session(session) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in of_session(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's processes in /proc")
def test_a_driver_that_is_killed_loses_nothing_and_trains_nothing_twice(
    write: Callable[..., Path], tmp_path: Path, weights: Path, environment: dict[str, str]
) -> None:
    """Paths in the configuration are relative to where the command is run, for the workers too."""
    path = write(
        runs="runs",
        backbone={"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": weights.name},
        train={"epochs": 2, "batch_size": 200},
        search={"trials": 4},
        resources={"runner": "ray", "concurrent": 2},
    )
    folder = tmp_path / "runs" / "run"
    command = [sys.executable, "-c", "from petlas.search.cli import main; main()", "search", path.name]

    with (tmp_path / "first.log").open("w") as log:
        driver = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while finished(folder) < 2:
            assert driver.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        driver.kill()
        driver.wait()
        before = {t.number: t for t in StudyRecord.read(folder).trials() if t.state.is_finished()}
        assert len(before) >= 2

        again = subprocess.run(
            [*command, "resources.concurrent=1", "--format", "json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        driver.kill()
        clean_up(driver.pid)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("{"), again.stdout
    assert "Traceback" not in again.stderr

    record = StudyRecord.read(folder)
    trials = {t.number: t for t in record.trials()}
    assert {number: trials[number] for number in before} == before
    assert {t.state.name for t in trials.values()} <= {"COMPLETE", "PRUNED", "FAIL"}
    counted = [t for t in trials.values() if not is_interrupted(t)]
    interrupted = [t for t in trials.values() if is_interrupted(t)]
    assert len(counted) == record.count_trained() == 4
    assert "FAIL" not in {t.state.name for t in counted}
    keys = Counter(t.user_attrs["key"] for t in counted)
    assert set(keys.values()) == {1}
    assert 1 <= len(interrupted) <= 2
    assert all(t.state.name == "FAIL" for t in interrupted)
    assert all(keys[t.user_attrs["key"]] == 1 for t in interrupted)  # tried again, and each knows what it was
    assert load_config(str(folder / "config.yaml")).backbone.checkpoint == weights.name


def test_searches_at_once_through_ray_have_the_values_of_searches_in_this_process(local_ray: None, make: Make) -> None:
    """Two tasks in turns on the same workers, none with the settings of the other; and each has its own log."""
    few = {"train": {"epochs": 2, "batch_size": 200}, "search": {"trials": 3, "grace_epochs": 1}}
    runs: dict[str, dict[str, Any]] = {
        "a": few | {"seed": 1, "task": {"name": "digits", "metric": "mean_per_class"}},
        "b": few | {"seed": 2, "train": {"epochs": 2, "batch_size": 100, "lr": 5e-3}},
    }
    alone = {name: rows(run(make(name=f"{name}-alone", **options))) for name, options in runs.items()}
    configs = [make(name=name, resources=RAY, **options) for name, options in runs.items()]
    assert [each.error for each in search_together(configs)] == [None, None]
    assert {config.name: rows(StudyRecord.read(config.folder)) for config in configs} == alone
    assert [(config.folder / "log.txt").read_text().count("INFO trial ") for config in configs] == [3, 3]
    began = sorted((t.datetime_start, c.name) for c in configs for t in StudyRecord.read(c.folder).trials())
    assert {name for _, name in began[:2]} == {"a", "b"}


def test_a_trial_that_takes_too_long_in_a_worker_fails_with_the_reason_and_the_worker_stays(
    local_ray: None, make: Make
) -> None:
    slow = {"train": {"epochs": 500, "batch_size": 100}, "search": {"trials": 2}}
    record = run(make(resources=RAY | {"trial_timeout": 2}, **slow))
    assert [t.state.name for t in record.trials()] == ["FAIL", "FAIL"]
    assert all("resources.trial_timeout=2 s" in t.user_attrs["error"] for t in record.trials())
    assert not any(is_interrupted(t) for t in record.trials())


def test_a_trial_whose_worker_had_to_be_ended_because_it_hung_has_failed(started: Started) -> None:
    stage = started(search={"trials": 1}, resources={"trial_timeout": 1e-6})
    searcher = search_of(stage)
    assert searcher.suggest("a")["limit"] == 1e-6
    searcher.start("a")
    searcher.on_trial_complete("a", None, True)
    (trial,) = stage.record.trials()
    assert (trial.state.name, is_interrupted(trial)) == ("FAIL", False)
    assert "resources.trial_timeout" in trial.user_attrs["error"]


def test_more_than_the_drivers_part_is_not_asked_for_and_what_is_too_much_is_given_back(started: Started) -> None:
    """Another driver came: what runs ends, and Tune begins anew, with fewer workers."""
    stage, part = started(search={"trials": 9}), [2]
    searcher = JobSearch(Rounds([Turns(stage.bench, lambda: iter([stage]))]), lambda: part[0])
    for name in "ab":
        assert searcher.suggest(name)["work"] == "train"
    assert searcher.suggest("c") is None
    part[0] = 1
    assert searcher.suggest("c") == "FINISHED"
    assert not searcher.rounds.over


def test_drivers_see_each_other_on_a_cluster(local_ray: None, make: Make) -> None:
    with ray_module._present() as count:
        assert count() == 1
        with ray_module._present() as other:
            assert count() == other() == 2
        until = time.monotonic() + 20
        while count() > 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        config = make(resources=RAY)
        assert ray_module.RayRunner([config], lambda: 1)._most() == 1


def values(record: StudyRecord) -> dict[str, Any]:
    return {t.user_attrs["key"]: t.values for t in record.trials() if not is_interrupted(t)}


def test_two_drivers_on_one_cluster_share_it_and_no_run_gets_the_settings_of_the_other(
    local_ray: None, write: Callable[..., Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    """The first one has all of it until the second comes; then each has its part."""
    from ray.cluster_utils import Cluster

    few = {"baselines": False, "sampler": "random", "grace_epochs": 8}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
    resources = {"runner": "ray", "address": cluster.address, "gpus": 0}
    runs: dict[str, dict[str, Any]] = {
        "first": {"search": few | {"trials": 8}},
        "second": {"search": few | {"trials": 3}, "seed": 5, "task": {"name": "digits", "metric": "mean_per_class"}},
    }
    for name, rate in (("first", 1e-3), ("second", 5e-3)):
        runs[name]["train"] = {"epochs": 8, "batch_size": 100, "lr": rate}
    drivers = []
    try:
        for name, options in runs.items():
            path = write(f"{name}.yaml", name=name, resources=resources, **options)
            command = [sys.executable, "-c", "from petlas.search.cli import main; main()", "search", str(path)]
            with (tmp_path / f"{name}.log").open("w") as told:
                drivers.append(subprocess.Popen(command, env=environment, stdout=told, stderr=told))
            until = time.monotonic() + 120
            while name == "first" and finished(tmp_path / "runs" / name) < 1:
                assert time.monotonic() < until
                time.sleep(0.1)
        assert [driver.wait(300) for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
        cluster.shutdown()
    first, second = (StudyRecord.read(tmp_path / "runs" / name) for name in runs)
    assert min(t.datetime_complete for t in second.trials()) < max(t.datetime_start for t in first.trials())
    for name, record in (("first", first), ("second", second)):
        search_of_two = runs[name]["search"] | {"trials": 2}
        alone = load_config(
            str(write(name="alone", runs=str(tmp_path / name), **runs[name] | {"search": search_of_two}))
        )
        assert values(run(alone)).items() <= values(record).items()
