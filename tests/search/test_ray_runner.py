"""Ray takes seconds to start, so one local Ray serves the searches in this process, and one test starts its own."""

import logging
import math
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from petlas.petl import backbone as backbone_module
from petlas.petl.design import Design
from petlas.search import inline_runner, ray_runner
from petlas.search.config import RunConfig, load_config
from petlas.search.ray_runner import StageScheduler, StudySearch, TrialWorker
from petlas.search.record import StudyRecord, is_interrupted
from petlas.search.run_folder import RunError
from petlas.search.session import Session
from petlas.search.training import EpochResult

Make = Callable[..., RunConfig]


@pytest.fixture
def started(make: Make) -> Callable[..., Session]:
    """A session with an open study."""

    def started(**groups: Any) -> Session:
        session = Session(make(**groups))
        session.config.folder.mkdir(parents=True)
        session.start()
        return session

    return started


Started = Callable[..., Session]


def run(session: Session) -> None:
    runner = inline_runner if session.config.resources.runner == "inline" else ray_runner
    with runner.opened(session.config) as opened:
        opened.run(session)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    # The workers inherit the environment, and with it the cache of the decoded images.
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def rows(session: Session) -> list[tuple[Any, ...]]:
    """What a study says, without the clock."""
    return [
        (t.number, t.state.name, t.user_attrs["key"], t.values, t.intermediate_values, t.user_attrs["epochs"])
        for t in session.record.trials()
    ]


def test_a_search_through_ray_is_the_search_in_this_process(local_ray: None, started: Started) -> None:
    options = {"train": {"epochs": 3, "batch_size": 100, "lr": 5e-3}, "search": {"trials": 6, "grace_epochs": 1}}
    through_ray = started(name="ray", resources={"runner": "ray"}, **options)
    run(through_ray)
    inline = started(name="inline", **options)
    run(inline)
    assert rows(through_ray) == rows(inline)
    states = Counter(row[1] for row in rows(through_ray))
    assert states.keys() == {"COMPLETE", "PRUNED"}
    assert sum(states.values()) == 6
    for _, state, _, values, intermediate, epochs in rows(through_ray):
        assert list(intermediate) == list(range(1, epochs + 1))
        assert (values[0] if state == "COMPLETE" else None) == (intermediate[3] if state == "COMPLETE" else None)
        assert state == "COMPLETE" or epochs == 1
    assert not (through_ray.config.folder / "ray").exists()


def test_nan_fails_through_ray_and_the_search_goes_on(local_ray: None, started: Started) -> None:
    session = started(
        train={"lr": 1e30, "clip_grad": None, "batch_size": 200}, search={"trials": 2}, resources={"runner": "ray"}
    )
    run(session)
    assert [row[1] for row in rows(session)] == ["FAIL", "FAIL"]
    assert all(t.user_attrs["error"] == "the loss is not finite" for t in session.record.trials())


def test_a_trial_that_needs_more_than_there_is_is_refused(local_ray: None, started: Started) -> None:
    with pytest.raises(RunError, match=r"lower resources\.cpus"):
        run(started(resources={"runner": "ray", "cpus": 999}))


def test_a_fault_of_a_design_fails_this_trial_and_the_worker_stays(
    make: Make, lora: Callable[..., Design], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile:
        def __init__(self, config: RunConfig, design: Design, stage: str) -> None:
            if design.placements:
                raise MemoryError("too large")
            self.finished = True

        def epoch(self) -> EpochResult:
            return EpochResult(1, 1.0, 0.5, 0.1)

    monkeypatch.setattr(ray_runner, "open_work", Fragile)
    monkeypatch.setattr(logging.getLogger("petlas"), "disabled", True)
    worker = object.__new__(TrialWorker)
    worker.config = {
        "number": 0,
        "design": '{"placements": [{"method": "lora", "block": 0, "size": 1}]}',
        "params": 5,
        "stage": "search",
    }
    worker.setup(worker.config, make().model_dump())
    result = worker.step()
    assert result["done"]
    assert result["error"] == "MemoryError: too large"
    assert math.isnan(result["val"])
    worker.config = {"number": 1, "design": '{"placements": []}', "params": 0, "stage": "search"}
    assert worker.reset_config(worker.config)
    result = worker.step()
    assert (result["done"], result["val"], result["params"]) == (True, 0.5, 0)
    assert "error" not in result


@pytest.mark.parametrize(
    ("result", "error", "reason", "values"),
    [
        (None, True, "the worker died", {}),
        ({"epoch": 1, "loss": 1.0, "val": 0.5, "seconds": 0.1}, True, "the worker died", {1: 0.5}),
        ({"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0, "error": "E: e"}, False, "E: e", {}),
        ({"epoch": 2, "loss": math.nan, "val": math.nan, "seconds": 0.1}, False, "the loss is not finite", {}),
    ],
)
def test_a_trial_that_ended_badly_is_a_failure_with_its_reason(
    started: Started, result: dict[str, Any] | None, error: bool, reason: str, values: dict[int, float]
) -> None:
    session = started(search={"trials": 1})
    search = StudySearch(session)
    assert search.suggest("a")["number"] == 0
    assert search.suggest("b") == "FINISHED"
    search.on_trial_complete("a", result, error)
    (trial,) = session.record.trials()
    assert (trial.state.name, trial.user_attrs["error"]) == ("FAIL", reason)
    assert trial.intermediate_values == values


def test_the_scheduler_stops_what_the_session_stops(started: Started) -> None:
    session = started(search={"grace_epochs": 1})
    search, scheduler = StudySearch(session), StageScheduler(session)

    class TuneTrial:
        def __init__(self, config: dict[str, Any]) -> None:
            self.config = config

    decisions = []
    for name, val in (("a", 0.5), ("b", 0.6), ("c", 0.4), ("d", math.nan)):
        trial = TuneTrial(search.suggest(name))
        result = {"epoch": 1, "loss": 1.0, "val": val, "seconds": 0.1}
        decisions.append(scheduler.on_trial_result(None, trial, result))  # type: ignore[arg-type]
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "STOP"]


def test_tunes_snapshots_hold_nothing_of_the_study(started: Started) -> None:
    session = started()
    for part in (StudySearch(session), StageScheduler(session)):
        assert pickle.loads(pickle.dumps(part)).__dict__ == {}


def test_without_an_address_ray_is_this_searchs_own_even_beside_a_cluster(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_runner.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_runner.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(ray_runner.ray, "shutdown", lambda: None)
    for address in (None, "10.0.0.1:6379"):
        with ray_runner._cluster(make(resources={"address": address})):
            pass
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    with ray_runner._cluster(make()):
        pass
    assert [options["address"] for options in asked] == ["local", "10.0.0.1:6379", "10.0.0.2:6379"]
    assert ["object_store_memory" in options for options in asked] == [True, False, False]


def finished(folder: Path) -> int:
    """Finished trials in a study that another process writes."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{folder}/study.db?mode=ro", uri=True)) as database:
        query = "select count(*) from trials where state in ('COMPLETE', 'PRUNED', 'FAIL')"
        return int(database.execute(query).fetchone()[0])
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
    write: Callable[..., Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    """Paths in the configuration are relative to where the command is run, for the workers too."""
    shutil.copy(backbone_module._MINI_FILE, tmp_path / "weights.safetensors")
    path = write(
        runs="runs",
        backbone={"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": "weights.safetensors"},
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
        before = {t.number: t for t in StudyRecord.in_folder(folder).trials() if t.state.is_finished()}
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

    record = StudyRecord.in_folder(folder)
    trials = {t.number: t for t in record.trials()}
    assert {number: trials[number] for number in before} == before
    assert {t.state.name for t in trials.values()} <= {"COMPLETE", "PRUNED", "FAIL"}
    counted = [t for t in trials.values() if not is_interrupted(t)]
    interrupted = [t for t in trials.values() if is_interrupted(t)]
    assert len(counted) == record.count_finished() == 4
    assert "FAIL" not in {t.state.name for t in counted}
    keys = Counter(t.user_attrs["key"] for t in counted)
    assert set(keys.values()) == {1}
    assert 1 <= len(interrupted) <= 2
    assert all(t.state.name == "FAIL" for t in interrupted)
    named = [t.user_attrs["key"] for t in interrupted if "key" in t.user_attrs]  # killed before it had a design: none
    assert all(keys[key] == 1 for key in named)
    assert load_config(str(folder / "config.yaml")).backbone.checkpoint == "weights.safetensors"
