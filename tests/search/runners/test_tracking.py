"""Trackers as the search tells them, with TensorBoard's event files as what is read back."""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petlas.search.config import RunConfig
from petlas.search.driver import search, search_together
from petlas.search.runners.ray import trackers
from petlas.search.runners.tracking import tracked
from petlas.search.stages.base import Proposal
from petlas.search.stages.rounds import Turns
from petlas.search.study import Entry, StudyRecord, candidate_of
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")

Make = Callable[..., RunConfig]


def events(folder: Path) -> Iterator[Any]:
    """What a folder's event files say: records of a length, its checksum, the event, its checksum."""
    for file in folder.glob("events.out.tfevents.*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def curve(folder: Path, name: str) -> dict[int, float]:
    return {
        event.step: round(value.simple_value, 6)
        for event in events(folder)
        for value in event.summary.value
        if value.tag == f"ray/tune/{name}"
    }


def test_every_training_is_a_trial_of_tensorboard_with_the_values_of_the_study(make: Make, training: Any) -> None:
    config = make(search={"trials": 3, "trackers": ["tensorboard"]})
    search(config)
    found = sorted((config.folder / "tracking" / "tensorboard").iterdir())
    trials = StudyRecord.read(config.folder).trials()
    assert [path.name.partition("-")[0] for path in found] == ["000", "001", "002"]
    for path, trial in zip(found, trials, strict=True):
        assert curve(path, "accuracy") == {k: round(v, 6) for k, v in trial.intermediate_values.items()}
        assert curve(path, "loss") == {1: 1.0, 2: 1.0}
        told = str(list(events(path)))
        for placement in candidate_of(trial).design.placements:
            assert f"lora@{placement.block}" in told
    assert "tensorboard --logdir" in (config.folder / "log.txt").read_text()


def test_a_trial_that_fails_has_what_it_had_and_the_search_goes_on(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: math.nan if epoch == 2 and len(design.placements) == 2 else 0.5
    config = make(search={"trials": 5, "trackers": ["tensorboard"]})
    assert search(config) is not None
    failed = [t for t in StudyRecord.read(config.folder).trials() if t.state.name == "FAIL"]
    assert failed
    (folder,) = (config.folder / "tracking" / "tensorboard").glob(f"{failed[0].number:03}-*")
    assert curve(folder, "accuracy") == {1: 0.5}


def test_a_tracker_that_breaks_is_told_no_more_and_changes_no_trial(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any) -> Any:
        raise OSError("no space left on device")

    plain = make(name="plain", search={"trials": 3})
    search(plain)
    monkeypatch.setattr(trackers.TensorBoard, "callback", broken)
    config = make(search={"trials": 3, "trackers": ["tensorboard"]})
    search(config)
    assert caplog.text.count("tensorboard is told no more: OSError: no space left on device") == 1
    values = [[trial.values for trial in StudyRecord.read(run.folder).trials()] for run in (plain, config)]
    assert values[0] == values[1]


def test_trainings_that_differ_by_how_often_the_images_were_dealt_are_told_apart(
    bench: Callable[..., Workbench], lora: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    callback = SimpleNamespace(log_trial_start=lambda trial: told.append(trial.config))
    monkeypatch.setattr(trackers.TensorBoard, "callback", lambda self: callback)
    run = Turns(work := bench(search={"trackers": ["tensorboard"]}), lambda: iter(()))
    with tracked([run]):
        for number, repeat in enumerate((0, 1)):
            entry = Entry(Candidate(lora(b0=2)), Fidelity(2, 0, 1, 5, repeat), "folds", 512)
            job = SimpleNamespace(bench=work, proposal=Proposal(number, entry, "train"))
            run.watchers[0].on_start(job)  # type: ignore[arg-type]
    assert [(params["fold"], params["repeat"]) for params in told] == [(1, 0), (1, 1)]


@pytest.mark.parametrize(("stage", "told"), [("search", True), ("folds", True), ("score", False), (None, False)])
def test_trainings_are_told_and_neither_scores_nor_what_is_no_trial(
    stage: str | None, told: bool, bench: Callable[..., Workbench], lora: Callable[..., Any]
) -> None:
    entry = Entry(Candidate(lora(b0=2)), Fidelity(2, 0), stage, 512) if stage else None
    run = Turns(work := bench(search={"trackers": ["tensorboard"]}), lambda: iter(()))
    job = SimpleNamespace(bench=work, proposal=Proposal(7, entry, "train"))
    with tracked([run]):
        for watcher in run.watchers:
            watcher.on_start(job)  # type: ignore[arg-type]
            watcher.on_epoch(job, EpochResult(1, 1.0, 0.5, 1.0))  # type: ignore[arg-type]
            watcher.on_end(job, "")  # type: ignore[arg-type]
    assert (work.config.folder / "tracking" / "tensorboard" / "007-lora").is_dir() == told


def test_runs_that_are_searched_together_are_kept_apart_and_a_resumed_one_goes_on(make: Make, training: Any) -> None:
    asked = {"trials": 2, "trackers": ["tensorboard", "tensorboard"]}  # named twice, told once
    a, b = make(name="a", search=asked), make(name="b", search=asked, file="b.yaml")
    search_together([a, b])
    search(make(name="a", search=asked | {"trials": 3}))
    assert [len(list((run.folder / "tracking" / "tensorboard").iterdir())) for run in (a, b)] == [3, 2]


def test_mlflow_has_an_experiment_for_each_run_in_one_file_beside_the_runs(make: Make, training: Any) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    asked = {"trials": 2, "trackers": ["mlflow"]}
    a, b = make(name="a", search=asked), make(name="b", search=asked, file="b.yaml")
    search_together([a, b])
    client = mlflow.MlflowClient(f"sqlite:///{Path(a.runs).absolute() / 'mlflow.db'}")
    for config in (a, b):
        experiment = client.get_experiment_by_name(config.name)
        runs = client.search_runs([experiment.experiment_id], order_by=["attribute.start_time"])
        trials = StudyRecord.read(config.folder).trials()
        assert sorted(run.data.metrics["accuracy"] for run in runs) == sorted(trial.values[0] for trial in trials)
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert all(run.data.params["stage"] == "search" for run in runs)
        assert not (config.folder / "tracking").exists()
