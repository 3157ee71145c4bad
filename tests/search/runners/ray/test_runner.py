"""Ray and each of its workers take seconds to start: most tests look at searches that were done at once."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import OutOfMemoryError
from safetensors.torch import load_file
from study_cases import rows, searched

from petlas.petl.adapter_file import read_adapter_info
from petlas.petl.design import Design
from petlas.petl.prefix import untouched
from petlas.search import plan
from petlas.search.config import RunConfig
from petlas.search.driver import Found, search, search_together
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
from petlas.search.study import StudyRecord, design_of, entry_of, is_interrupted
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]
RAY = {"runner": "ray", "concurrent": 1}


RUNS: dict[str, dict[str, Any]] = {
    "calm": {
        "space": {"methods": {"lora": {"blocks": [0, 5], "sizes": [0, 1, 2]}}, "settings": {"lr": [1e-5, 5e-3]}},
        "train": {"epochs": 3, "batch_size": 40},
        "search": {"trials": 6, "grace_epochs": 1},
    },
    "other": {
        "seed": 1,
        "task": {"metric": "mean_per_class"},
        "train": {"epochs": 2, "batch_size": 40, "lr": 1e-2, "amp": "off"},
        "search": {"trials": 3, "grace_epochs": 1},
    },
    "stormy": {"train": {"epochs": 2, "batch_size": 40, "lr": 5e-3}, "search": {"trials": 3, "grace_epochs": 1}},
    "nan": {"train": {"lr": 1e30, "clip_grad": None, "batch_size": 40}, "search": {"trials": 2}},
    "slow": {
        "train": {"epochs": 2000, "batch_size": 40},
        "search": {"trials": 2},
        "resources": {"trial_timeout": 2},
    },
    "measured": {
        "strategy": "sensitivity",
        "sensitivity": {"batches": 1, "batch_size": 40, "budgets": [600, 2000]},
        "train": {"epochs": 1, "batch_size": 40, "lr": 5e-3},
        "search": {"trials": 2},
    },
}
"""Two tasks; a worker is killed in a trial of the stormy run."""


def options_of(name: str, task: str) -> dict[str, Any]:
    """What a run is given."""
    return RUNS[name] | {"task": {"name": task} | RUNS[name].get("task", {})}


@dataclass
class Together:
    """What came of the runs that were searched at once."""

    configs: dict[str, RunConfig]
    found: dict[str, Found]
    killed: int

    def study(self, name: str) -> StudyRecord:
        return StudyRecord.read(self.configs[name].folder)


@pytest.fixture(scope="module")
def together(local_ray: str, module_make: Make, few_digits: str) -> Together:
    configs = {
        name: module_make(name=name, **options_of(name, few_digits) | {"resources": RAY | options.get("resources", {})})
        for name, options in RUNS.items()
    }
    killed: list[int] = []
    on_trial_result = JobScheduler.on_trial_result

    def kill_once(scheduler: JobScheduler, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The first of the stormy run that is not stopped at its rung."""
        job = scheduler._search.jobs[trial.trial_id]
        decision = on_trial_result(scheduler, controller, trial, result)
        if decision == JobScheduler.CONTINUE and job.bench.config.name == "stormy" and not killed:
            killed.append(job.proposal.number)
            os.kill(result["pid"], signal.SIGKILL)
        return decision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobScheduler, "on_trial_result", kill_once)
        found = search_together(list(configs.values()))
    (number,) = killed
    return Together(configs, dict(zip(configs, found, strict=True)), number)


@pytest.fixture(scope="module")
def alone(module_make: Make, few_digits: str) -> dict[str, list[tuple[Any, ...]]]:
    """What comes of some of the runs one by one, in this process; of one of them with every block run each time."""
    whole = {"other": {"resources": {"cache_gb": 0}}}
    return {
        name: rows(searched(module_make(name=f"{name}-alone", **options_of(name, few_digits) | whole.get(name, {}))))
        for name in ("calm", "other", "stormy", "measured")
    }


def test_a_search_through_ray_is_the_search_in_this_process(
    together: Together, alone: dict[str, list[tuple[Any, ...]]]
) -> None:
    through_ray = together.study("calm")
    assert rows(through_ray) == alone["calm"]
    states = Counter(row[1] for row in rows(through_ray))
    assert states.keys() == {"COMPLETE", "PRUNED"}
    assert sum(states.values()) == 6
    for _, state, _, values, intermediate, epochs in rows(through_ray):
        assert list(intermediate) == list(range(1, epochs + 1))
        assert (values[0] if state == "COMPLETE" else None) == (intermediate[3] if state == "COMPLETE" else None)
        assert state == "COMPLETE" or epochs == 1
    assert not (together.configs["calm"].folder / "ray").exists()
    assert {t.user_attrs["device"] for t in through_ray.trials()} == {"cpu"}


def test_searches_at_once_through_ray_have_the_values_of_searches_in_this_process(
    together: Together, alone: dict[str, list[tuple[Any, ...]]]
) -> None:
    """Two tasks in turns on the same workers, none with the settings of the other; and each has its own log."""
    assert {name: each.error for name, each in together.found.items()} == dict.fromkeys(RUNS)
    assert rows(together.study("other")) == alone["other"]  # to the digit, though that kept no block's output
    designs = [design_of(trial) for trial in together.study("other").trials()]
    assert any(untouched(design, 6) for design in designs)
    logs = {name: (config.folder / "log.txt").read_text() for name, config in together.configs.items()}
    assert {name: log.count("INFO trial ") for name, log in logs.items()} == {
        name: options["search"]["trials"] for name, options in RUNS.items()
    }
    at_once = RUNS.keys() - {"measured"}  # which has sensitivities to measure before its trials
    began = sorted((t.datetime_start, name) for name in at_once for t in together.study(name).trials())
    assert {name for _, name in began[: len(at_once)]} == at_once


def test_a_worker_that_is_killed_is_replaced_and_the_search_ends_as_if_it_had_not_been(
    together: Together, alone: dict[str, list[tuple[Any, ...]]]
) -> None:
    record, number = together.study("stormy"), together.killed
    stormy, lost = rows(record), record.trials()[number]
    assert is_interrupted(lost)
    assert lost.user_attrs["error"] == "the worker died"
    assert record.count_trained() == 3
    assert [row[1:] for row in stormy if row[0] != number] == [row[1:] for row in alone["stormy"]]


def test_sensitivities_that_a_worker_measures_are_those_of_this_process(
    together: Together, alone: dict[str, list[tuple[Any, ...]]]
) -> None:
    assert rows(together.study("measured")) == alone["measured"]
    folder = together.configs["measured"].folder
    there, here = (
        json.loads((folder.with_name(name) / "sensitivity.json").read_text()) for name in ("measured", "measured-alone")
    )
    assert (there["sites"], there["designs"]) == (here["sites"], here["designs"])


def test_nan_fails_through_ray_and_the_search_goes_on(together: Together) -> None:
    record = together.study("nan")
    assert [row[1] for row in rows(record)] == ["FAIL", "FAIL"]
    assert all(t.user_attrs["error"] == "the loss is not finite" for t in record.trials())


def test_a_trial_that_takes_too_long_in_a_worker_fails_with_the_reason_and_the_worker_stays(together: Together) -> None:
    slow = together.study("slow").trials()
    assert [t.state.name for t in slow] == ["FAIL", "FAIL"]
    assert all("resources.trial_timeout=2 s" in t.user_attrs["error"] for t in slow)
    assert not any(is_interrupted(t) for t in slow)


def test_a_trial_that_needs_more_than_there_is_is_refused(
    local_ray: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)  # this machine's own count is no limit of a cluster
    with pytest.raises(RunError, match=r"lower resources\.cpus"):
        searched(make(resources=RAY | {"cpus": 999}))


def test_where_tune_breaks_off_for_want_of_memory_the_search_goes_on_as_if_it_had_not(
    local_ray: str, make: Make, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune raises what it makes of Ray's memory monitor ending a worker."""
    options = {"task": {"name": few_digits}, "train": {"epochs": 2, "batch_size": 20, "lr": 5e-3}}
    options |= {"search": {"trials": 1}}
    calm, broken = rows(searched(make(name="calm", **options))), list[int]()

    def break_once(starts: Starts, iteration: int, trials: list[Any]) -> None:
        if not broken and any(trial.last_result.get("epoch") for trial in trials):
            broken.append(iteration)
            raise RuntimeError("Caught unexpected exception") from OutOfMemoryError("full")

    monkeypatch.setattr(Starts, "on_step_begin", break_once)
    record = searched(make(name="broken", resources=RAY, **options))
    lost = record.trials()[0]
    assert is_interrupted(lost)
    assert "memory was full" in lost.user_attrs["error"]
    assert [row[1:] for row in rows(record)[1:]] == [row[1:] for row in calm]


def test_seeds_that_are_retrained_through_ray_are_those_of_this_process_also_after_a_kill(
    local_ray: str, make: Make, few_digits: str, lora: Callable[..., Design], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test is read by workers, and noted by the driver. A plan is measured there, too."""
    settings = {"task": {"name": few_digits}, "train": {"epochs": 2, "batch_size": 40}}
    candidate, killed = Candidate(lora(b0=1, b5=2)), list[int]()
    ray, inline = (make(name=name, resources=RAY | {"runner": name}, **settings) for name in ("ray", "inline"))
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
        there, here = (config.folder / adapter_name(candidate, seed) for config in (ray, inline))
        assert read_adapter_info(there).to_json() == read_adapter_info(here).to_json()
        found, expected = load_file(there), load_file(here)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    reads = json.loads((ray.folder / TEST_READS).read_text())
    assert [(read["key"], read["seed"]) for read in reads] == [(candidate.key, 0), (candidate.key, 1)]
    assert not (ray.folder / "checkpoints").exists()
    limits = {"budget": {"flops": 1e12}}  # what steps cost is measured there, too
    planned = plan(make(name="far", resources={"runner": "auto", "gpus": 0, "address": local_ray}, **limits))
    near = plan(make(name="near", **limits))
    assert planned.flops == near.flops
    assert planned.steps["flops"] == near.steps["flops"]
    assert not (ray.folder.parent / "far").exists()


def test_weights_that_are_gone_when_a_worker_wants_them_stop_the_search_and_use_no_trial(
    local_ray: str, make: Make, few_digits: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(
        task={"name": few_digits},
        backbone={"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": str(weights)},
        train={"epochs": 1, "batch_size": 40},
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
    record = searched(config.model_copy(update={"resources": make().resources}))
    assert [t.state.name for t in record.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert entry_of(record.trials()[1]) == entry_of(trial)


def test_rays_own_servers_answer(local_ray: str) -> None:
    check_address(cluster_module.ray.get_runtime_context().gcs_address)


def test_drivers_see_each_other_on_a_cluster(local_ray: str, make: Make) -> None:
    with present() as count:
        assert count() == 1
        with present() as other:
            assert count() == other() == 2
        until = time.monotonic() + 20
        while count() > 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        config = make(resources={"runner": "ray"})
        assert [RayRunner([config], Supplier(paths=False), lambda n=n: n)._most() for n in (1, 2, 3)] == [2, 1, 1]


def test_auto_tries_and_chooses_the_same_with_two_workers_as_in_this_process(
    local_ray: str, module_make: Make, few_digits: str
) -> None:
    options = {"strategy": "auto", "search": {"cost": 8}, "train": {"epochs": 2, "batch_size": 40, "lr": 5e-3}}
    options |= {"task": {"name": few_digits}}
    two, one = (
        searched(module_make(name=f"auto-{runner}", **options, resources={"runner": runner, "concurrent": 2}))
        for runner in ("ray", "inline")
    )
    as_a_set = [
        sorted(map(str, (row[1:] for row in rows(record)))) for record in (two, one)
    ]  # who begins first may differ
    assert as_a_set[0] == as_a_set[1]
    chosen = [record.best() for record in (two, one)]
    assert chosen[0] is not None
    assert chosen[1] is not None
    assert chosen[0].user_attrs["key"] == chosen[1].user_attrs["key"]
    assert len({row[2] for row in rows(two)}) > 3
