"""Searches in processes of their own, which may be killed, with a Ray of their own or on a cluster."""

import os
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
from study_cases import rows, searched

from petlas.search.config import load_config
from petlas.search.driver import search
from petlas.search.study import StorageError, StudyRecord, is_interrupted


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


def workers_of(session: int) -> list[int]:
    """Those that are or were Ray's workers for trials, or wait to be."""
    found = []
    for pid in of_session(session):
        with suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
            if name.startswith(b"ray::") and b"Agent" not in name:
                found.append(pid)
    return found


def clean_up(session: int) -> None:
    """End what a killed driver leaves: Ray's processes see only after a while that it is gone."""
    for pid in of_session(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


STOPPED = """
import os, signal
from petlas.search.cli import main
from petlas.search.runners.ray.jobs import JobSearch

on_epoch, on_trial_complete = JobSearch.on_epoch, JobSearch.on_trial_complete
ended = []

def count(search, trial_id, *args, **kwargs):
    ended.append(on_trial_complete(search, trial_id, *args, **kwargs))

def stop_in_mid_trial(search, trial_id, result):
    keeps = on_epoch(search, trial_id, result)
    if len(ended) >= 2 and result["epoch"] == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return keeps

JobSearch.on_epoch, JobSearch.on_trial_complete = stop_in_mid_trial, count
main()
"""
"""Stops itself when two trials have ended and a third has the first of its two epochs."""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's processes in /proc")
def test_a_driver_that_is_killed_loses_nothing_and_trains_nothing_twice(
    local_ray: str,
    write: Callable[..., Path],
    tmp_path: Path,
    weights: Path,
    few_digits: str,
    environment: dict[str, str],
    petlas: Callable[..., Any],
) -> None:
    """It had a Ray of its own, and goes on in another process, on a cluster.

    Paths in the configuration are relative to where the command is run, for the workers too.
    """
    path = write(
        runs="runs",
        task={"name": few_digits},
        backbone={"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": weights.name},
        train={"epochs": 2, "batch_size": 40},
        search={"trials": 4},
        resources={"runner": "ray", "concurrent": 2},
    )
    folder = tmp_path / "runs" / "run"

    with (tmp_path / "first.log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", STOPPED, "search", path.name],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _, status = os.waitpid(driver.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), (tmp_path / "first.log").read_text()
        assert 1 <= len(workers_of(driver.pid)) <= 2  # none that is not used
        driver.kill()
        driver.wait()
        before = {t.number: t for t in StudyRecord.read(folder).trials() if t.state.is_finished()}
        assert len(before) >= 2

        cluster = (f"resources.address={local_ray}", "resources.concurrent=1")
        again = petlas("search", path.name, *cluster, "--format", "json")
    finally:
        driver.kill()
        clean_up(driver.pid)
    assert again.status == 0, again.err
    assert again.out.startswith("{"), again.out

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
    alone = rows(searched(load_config(str(write(name="alone", **options)))))
    path = write("apart.yaml", name="apart", resources={"runner": "ray", "concurrent": 1, "gpus": 0}, **options)
    own = environment | {"PETLAS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", DRIVER, str(path), str(tmp_path)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    record = StudyRecord.read(tmp_path / "runs" / "apart")
    lost, *others = rows(record)
    assert is_interrupted(record.trials()[0])
    assert list(lost[4]) == [1]
    assert {row[2]: row[3:] for row in others} == {row[2]: row[3:] for row in alone}
    # The second takes the training up; and what Ray says of the kill is in the log alone.
    assert done.stdout.splitlines() == ["handed out 3 0", "handed out 3 1", "handed out 3 0"]
    assert "Ray: A worker died" in (tmp_path / "runs" / "apart" / "log.txt").read_text()
    assert not list((tmp_path / "node").rglob("*.safetensors"))
    assert not (tmp_path / "runs" / "apart" / "checkpoints").exists()


SLOW = """
import sys, time
from pathlib import Path
from petlas.search.cli import main
from petlas.search.runners.ray.jobs import JobSearch
from petlas.search.runners.ray.runner import RayRunner

on_epoch, most, over, parts = JobSearch.on_epoch, RayRunner._most, Path(sys.argv.pop()), []

def slowly(search, trial_id, result):
    if not over.exists():
        time.sleep(1)
    return on_epoch(search, trial_id, result)

def least(runner):
    parts.append(most(runner))
    return min(parts)

JobSearch.on_epoch, RayRunner._most = slowly, least
main()
"""
"""Takes its time with every epoch until a file is there, as the other driver's worker takes its own to start; and when
that driver is gone, it starts no worker for its last few trials."""


def test_two_drivers_on_one_cluster_share_it_and_no_run_gets_the_settings_of_the_other(
    local_ray: str, write: Callable[..., Path], tmp_path: Path, few_digits: str, environment: dict[str, str]
) -> None:
    """The first one has all of it until the second comes, which is this process; then each has its part."""
    few = {"baselines": False, "sampler": "random", "grace_epochs": 8}
    runs: dict[str, dict[str, Any]] = {
        "first": {"search": few | {"trials": 8}, "task": {"name": few_digits}},
        "second": {
            "search": few | {"trials": 2},
            "seed": 5,
            "task": {"name": few_digits, "metric": "mean_per_class"},
        },
    }
    paths = {}
    for name, rate in (("first", 1e-3), ("second", 5e-3)):
        runs[name]["train"] = {"epochs": 8, "batch_size": 80, "lr": rate}
        resources = {"runner": "ray", "address": local_ray, "gpus": 0}
        paths[name] = write(f"{name}.yaml", name=name, resources=resources, **runs[name])
    over = tmp_path / "over"
    command = [sys.executable, "-c", SLOW, "search", str(paths["first"]), str(over)]
    with (tmp_path / "first.log").open("w") as told:
        driver = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
    try:
        until = time.monotonic() + 120
        while finished(tmp_path / "runs" / "first") < 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        search(load_config(str(paths["second"])))
        over.touch()
        assert driver.wait(300) == 0
    finally:
        driver.kill()
    first, second = (StudyRecord.read(tmp_path / "runs" / name) for name in runs)
    assert min(t.datetime_complete for t in second.trials()) < max(t.datetime_start for t in first.trials())
    for name, record in (("first", first), ("second", second)):
        search_of_two = runs[name]["search"] | {"trials": 2}
        alone = load_config(
            str(write(name="alone", runs=str(tmp_path / name), **runs[name] | {"search": search_of_two}))
        )
        assert values(searched(alone)).items() <= values(record).items()
