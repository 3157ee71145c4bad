"""Ray takes seconds to start, so one local Ray serves the searches in this process, and one test starts its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray.exceptions import OutOfMemoryError

from petlas import petl
from petlas.petl.design import Design
from petlas.search import plan, score
from petlas.search.config import RunConfig, load_config
from petlas.search.driver import search, search_together
from petlas.search.retraining import retrain
from petlas.search.run_folder import RunError
from petlas.search.runners.knock import check_address
from petlas.search.runners.ray import cluster as cluster_module
from petlas.search.runners.ray.cluster import present
from petlas.search.runners.ray.jobs import JobScheduler, Starts
from petlas.search.runners.ray.runner import RayRunner
from petlas.search.runners.ray.supplier import Supplier
from petlas.search.stages.base import SearchStopped
from petlas.search.stages.retrain import TEST_READS, adapter_name
from petlas.search.study import StorageError, StudyRecord, entry_of, is_interrupted
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]
RAY = {"runner": "ray"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of the small backbone as a file of the user's."""
    (mini,) = (Path(petl.__path__[0]) / "mini").glob("*.safetensors")
    return Path(shutil.copy(mini, tmp_path / "weights.safetensors"))


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
    killed: list[int] = []
    on_trial_result = JobScheduler.on_trial_result

    def kill_once(scheduler: JobScheduler, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The first that is not stopped at its rung."""
        decision = on_trial_result(scheduler, controller, trial, result)
        if decision == JobScheduler.CONTINUE and not killed:
            killed.append(scheduler._search.jobs[trial.trial_id].proposal.number)
            os.kill(result["pid"], signal.SIGKILL)
        return decision

    monkeypatch.setattr(JobScheduler, "on_trial_result", kill_once)
    record = run(make(name="stormy", resources=RAY, **options))
    (number,) = killed
    stormy, lost = rows(record), record.trials()[number]
    assert is_interrupted(lost)
    assert lost.user_attrs["error"] == "the worker died"
    assert record.count_trained() == 3
    assert [row[1:] for row in stormy if row[0] != number] == [row[1:] for row in calm]


def test_where_tune_breaks_off_for_want_of_memory_the_search_goes_on_as_if_it_had_not(
    local_ray: None, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune raises what it makes of Ray's memory monitor ending a worker."""
    options = {"train": {"epochs": 2, "batch_size": 200}, "search": {"trials": 2, "grace_epochs": 2}}
    calm, broken = rows(run(make(name="calm", **options))), list[int]()

    def break_once(starts: Starts, iteration: int, trials: list[Any]) -> None:
        if not broken and any(trial.last_result.get("epoch") for trial in trials):
            broken.append(iteration)
            raise RuntimeError("Caught unexpected exception") from OutOfMemoryError("full")

    monkeypatch.setattr(Starts, "on_step_begin", break_once)
    record = run(make(name="broken", resources=RAY, **options))
    lost = record.trials()[0]
    assert is_interrupted(lost)
    assert "memory was full" in lost.user_attrs["error"]
    assert [row[1:] for row in rows(record)[1:]] == [row[1:] for row in calm]


def test_seeds_that_are_retrained_through_ray_are_those_of_this_process_also_after_a_kill(
    local_ray: None, make: Make, lora: Callable[..., Design], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so are sensitivities; test is read by workers, and noted by the driver. A plan is measured there, too."""
    settings = {"train": {"epochs": 2, "batch_size": 250}, "sensitivity": {"batches": 1, "batch_size": 20}}
    candidate, killed = Candidate(lora(b0=1, b5=2)), list[int]()
    ray, inline = (make(name=name, resources={"runner": name}, **settings) for name in ("ray", "inline"))
    alone = retrain(inline, candidate, seeds=2, val=0.5)
    on_trial_result = JobScheduler.on_trial_result

    def kill_once(scheduler: JobScheduler, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = on_trial_result(scheduler, controller, trial, result)
        if not killed:
            killed.append(result["epoch"])
            os.kill(result["pid"], signal.SIGKILL)
        return decision

    monkeypatch.setattr(JobScheduler, "on_trial_result", kill_once)
    assert retrain(ray, candidate, seeds=2, val=0.5) == alone
    assert killed == [1]
    for seed in (0, 1):
        name = adapter_name(candidate, seed)
        assert (ray.folder / name).read_bytes() == (inline.folder / name).read_bytes()
    reads = json.loads((ray.folder / TEST_READS).read_text())
    assert [(read["key"], read["seed"]) for read in reads] == [(candidate.key, 0), (candidate.key, 1)]
    assert not (ray.folder / "checkpoints").exists()
    measured, own = (score([config])[0] for config in (ray, inline))
    assert (measured.sites, measured.designs) == (own.sites, own.designs)
    address = cluster_module.ray.get_runtime_context().gcs_address
    planned = plan(make(name="far", resources={"runner": "auto", "gpus": 0, "address": address}))
    assert planned.flops == plan(make(name="near")).flops
    assert not (ray.folder.parent / "far").exists()


def test_weights_that_are_gone_when_a_worker_wants_them_stop_the_search_and_use_no_trial(
    local_ray: None, make: Make, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(
        backbone={"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": str(weights)},
        train={"epochs": 1, "batch_size": 400},
        search={"trials": 2},
        resources=RAY | {"data": "path"},
    )
    begin, away = StudyRecord.begin, weights.with_name("elsewhere")

    def take_away(record: StudyRecord, *args: Any) -> int:
        weights.rename(away)
        return begin(record, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StudyRecord, "begin", take_away)
        with pytest.raises(
            SearchStopped, match=rf"node .*{weights.name}.*with resources\.data=path every node must see"
        ):
            search(config)
    (trial,) = StudyRecord.read(config.folder).trials()
    assert is_interrupted(trial)
    away.rename(weights)
    record = run(config)
    assert [t.state.name for t in record.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert entry_of(record.trials()[1]) == entry_of(trial)


def test_rays_own_servers_answer(local_ray: None) -> None:
    check_address(cluster_module.ray.get_runtime_context().gcs_address)


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


def test_drivers_see_each_other_on_a_cluster(local_ray: None, make: Make) -> None:
    with present() as count:
        assert count() == 1
        with present() as other:
            assert count() == other() == 2
        until = time.monotonic() + 20
        while count() > 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        config = make(resources=RAY)
        assert RayRunner([config], Supplier(paths=False), lambda: 1)._most() == 1


def values(record: StudyRecord) -> dict[str, Any]:
    return {t.user_attrs["key"]: t.values for t in record.trials() if not is_interrupted(t)}


DRIVER = """
import os, signal, sys
from pathlib import Path
from petlas.search.config import load_config
from petlas.search.driver import search
from petlas.search.runners.ray.jobs import JobSearch
from petlas.search.workbench import Workbench

check, on_epoch, suggest = Workbench.check, JobSearch.on_epoch, JobSearch.suggest
place, killed = Path(sys.argv[2]), []

def check_and_take_away(bench, *args):
    check(bench, *args)
    for name in ("pets", "weights.safetensors", "cache"):
        (place / name).rename(place / f"{name}-elsewhere")
    for name in ("HOME", "PETLAS_CACHE", "PETLAS_DATA", "HF_HOME"):
        (place / "node" / name).mkdir(parents=True)
        os.environ[name] = str(place / "node" / name)
    os.chdir(place / "node")

def kill_once(search, trial_id, result):
    keeps = on_epoch(search, trial_id, result)
    if not killed:
        killed.append(os.kill(result["pid"], signal.SIGKILL))
    return keeps

def hand_out(search, trial_id):
    found = suggest(search, trial_id)
    if isinstance(found, dict):
        print("handed out", len(found["supplies"]), len(found["files"]), flush=True)
    return found

Workbench.check, JobSearch.on_epoch, JobSearch.suggest = check_and_take_away, kill_once, hand_out
search(load_config(sys.argv[1]))
"""
"""Takes data, weights and decoded images away when it has opened them, so that the workers, which Ray starts in empty
folders, could open none; and kills the first of them in mid-trial."""


def test_workers_without_data_and_weights_train_the_numbers_of_this_process_also_after_a_kill(
    write: Callable[..., Path], weights: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """What the killed worker learned is with the driver."""
    rng = np.random.default_rng(0)
    for index in range(60):
        path = tmp_path / "pets" / ("train", "val", "test")[index % 3] / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 128 + 127 * (index % 2), (40, 40, 3), np.uint8)).save(path)
    options: dict[str, Any] = {
        "task": {"name": str(tmp_path / "pets")},
        "backbone": {"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": str(weights)},
        "train": {"epochs": 3, "batch_size": 5, "lr": 1e-2},
        "search": {"trials": 2, "grace_epochs": 3},
    }
    alone = rows(run(load_config(str(write(name="alone", **options)))))
    path = write("apart.yaml", name="apart", resources=RAY | {"concurrent": 1, "gpus": 0}, **options)
    own = environment | {"PETLAS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", DRIVER, str(path), str(tmp_path)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    record = StudyRecord.read(tmp_path / "runs" / "apart")
    lost, *others = rows(record)
    assert is_interrupted(record.trials()[0])
    assert list(lost[4]) == [1]
    assert {row[2]: row[3:] for row in others} == {row[2]: row[3:] for row in alone}
    told = [line for line in done.stdout.splitlines() if line.startswith("handed out")]
    assert told == ["handed out 3 0", "handed out 3 1", "handed out 3 0"]  # the second takes the training up
    assert not list((tmp_path / "node").rglob("*.safetensors"))
    assert not (tmp_path / "runs" / "apart" / "checkpoints").exists()


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
