import math
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from petlas.search.config import ResourcesConfig, RunConfig
from petlas.search.runners.ray import devices as devices_module
from petlas.search.runners.ray import head as head_module
from petlas.search.runners.ray import jobs as jobs_module
from petlas.search.runners.ray.head import Head, HeadLost
from petlas.search.runners.ray.jobs import FaultStopper, JobScheduler, JobSearch, Starts
from petlas.search.runners.ray.supplier import Sent, Supplier
from petlas.search.stages.losses import MOST_LOSSES
from petlas.search.stages.rounds import Rounds, Turns
from petlas.search.stages.train import TrainStage
from petlas.search.strategies.base import Search
from petlas.search.study import StudyRecord, is_interrupted
from petlas.search.workbench import Workbench

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


Started = Callable[..., TrainStage]


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
    """And until then it is tried again, with the values that it had; a loss after which it had learned more is none."""
    stage = started(search={"trials": 1})
    searcher = search_of(stage)
    scheduler = JobScheduler(searcher)
    for number in range(MOST_LOSSES + len(values)):
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


HEAD = Head("", lambda address: True)


def search_of(
    stage: TrainStage,
    most: int = 99,
    of: Callable[[RunConfig], ResourcesConfig] | None = None,
    head: Head = HEAD,
) -> JobSearch:
    """What Tune asks, of a single run of one stage."""
    of, rounds = of or (lambda config: config.resources), Rounds([Turns(stage.bench, lambda: iter([stage]))])
    return JobSearch(rounds, lambda: most, of, Supplier(paths=True), head)


def tune_trial(name: str, worker: Any = None) -> Any:
    return SimpleNamespace(trial_id=name, temporary_state=SimpleNamespace(ray_actor=worker))


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
    stopper = FaultStopper(searcher.rounds, HEAD)
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
    for part in (search, JobScheduler(search), FaultStopper(search.rounds, HEAD), Starts(search)):
        assert pickle.loads(pickle.dumps(part)).__dict__ == {}


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
    searcher = JobSearch(
        Rounds([Turns(stage.bench, lambda: iter([stage]))]),
        lambda: part[0],
        lambda config: config.resources,
        Supplier(paths=True),
        HEAD,
    )
    for name in "ab":
        assert searcher.suggest(name)["work"] == "train"
    assert searcher.suggest("c") is None
    part[0] = 1
    assert searcher.suggest("c") == "FINISHED"
    assert not searcher.rounds.over


def test_a_free_worker_is_not_given_to_a_trial_whose_own_worker_is_starting(started: Started) -> None:
    """Or that one would be dropped: no further worker came up as long as trials were shorter than its start."""
    waits = SimpleNamespace(status="PENDING", trial_id="a", placement_group_factory=None)
    controller = SimpleNamespace(get_trials=lambda: [waits], get_live_trials=lambda: {waits.trial_id})
    assert JobScheduler(search_of(started())).choose_trial_to_run(controller) is None


def test_a_trial_that_starves_on_a_share_of_a_gpu_has_one_to_itself_once_and_fails_then(started: Started) -> None:
    """No GPU is here: the worker's word is what counts."""
    stage = started(search={"trials": 1})
    share = ResourcesConfig(gpus=0.25)
    searcher = search_of(stage, of=lambda config: share)
    starved = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0, "error": "OOM: 2 GB", "starved": True}
    needs = []
    for name in "ab":
        found = searcher.suggest(name)
        needs.append(found["needs"])
        assert RunConfig.model_validate_json(found["run"]).resources == share
        searcher.start(name)
        searcher.on_trial_complete(name, dict(starved))
    assert needs == [{"CPU": 1, "GPU": 0.25}, {"CPU": 1, "GPU": 1}]
    assert searcher.suggest("c") == "FINISHED"
    cut, failed = stage.record.trials()
    assert (is_interrupted(cut), is_interrupted(failed)) == (True, False)
    assert failed.user_attrs["error"] == "OOM: 2 GB"
    assert cut.user_attrs["key"] == failed.user_attrs["key"]


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_trial_that_starves_where_there_is_no_more_fails(started: Started, gpus: float) -> None:
    stage = started(search={"trials": 1})
    searcher = search_of(stage, of=lambda config: ResourcesConfig(gpus=gpus))
    searcher.suggest("a")
    searcher.start("a")
    searcher.on_trial_complete("a", {"epoch": 0, "error": "OOM: 2 GB", "starved": True})
    assert [t.user_attrs["error"] for t in stage.record.trials()] == ["OOM: 2 GB"]
    assert stage.exhausted()


class Actor:
    """Stands in for a worker that Ray ended, or Tune."""

    def __init__(self, error: Exception) -> None:
        self.__ray_ready__ = SimpleNamespace(remote=lambda: error)


@pytest.mark.parametrize(
    ("error", "cpus", "why", "needed"),
    [
        (OutOfMemoryError("full"), 1, "the node's memory was full, and Ray ended the worker", 4),
        (OutOfMemoryError("full"), 4, "the node's memory was full, and Ray ended the worker", 4),
        (WorkerCrashedError(), 1, "the worker died", 1),
    ],
)
def test_where_tune_breaks_off_at_a_workers_end_its_trial_is_lost_and_the_others_are_done_again(
    started: Started, monkeypatch: pytest.MonkeyPatch, error: RayError, cpus: int, why: str, needed: int
) -> None:
    """With a node to itself where it had none, and up to the limit of a trial whose worker dies."""

    def get(error: Exception, timeout: float) -> None:
        raise error

    monkeypatch.setattr(jobs_module.ray, "get", get)
    monkeypatch.setattr(devices_module, "nodes", lambda: [{"CPU": 4.0}, {"CPU": 8.0}, {"CPU": 0.0}, {}])
    stage = started(search={"trials": 2})
    searcher = search_of(stage, of=lambda config: ResourcesConfig(cpus=cpus, gpus=0))
    ends, given = {"a": ActorDiedError(), "b": error}, []
    for _ in range(MOST_LOSSES):
        for name, end in ends.items():
            given.append(searcher.suggest(name)["needs"]["CPU"])
            Starts(searcher).on_trial_start(0, [], tune_trial(name, Actor(end)))
        searcher.on_break(error)
    assert given == [cpus, cpus] + [cpus, needed] * (MOST_LOSSES - 1)
    assert searcher.suggest("c")["needs"] == {"CPU": cpus, "GPU": 0.0}
    assert searcher.suggest("d") is None
    trials = stage.record.trials()
    assert [t.user_attrs.get("error") for t in trials] == [None, why] * (MOST_LOSSES - 1) + [
        None,
        f"{why}, {MOST_LOSSES} times",
    ]
    assert [is_interrupted(t) for t in trials] == [True] * (len(trials) - 1) + [False]


def test_workers_that_die_with_the_head_are_no_fault_and_the_search_stops(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [True]
    monkeypatch.setattr(head_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(head_module, "_LOOKS_EVERY", 0.0)
    stage, head = started(search={"trials": 3}), Head("h:1", lambda address: there[0])
    searcher = search_of(stage, head=head)
    searcher.suggest("runs")
    searcher.start("runs")
    searcher.suggest("waits")
    there[0] = False
    with pytest.raises(HeadLost):
        searcher.suggest("next")
    with pytest.raises(HeadLost):
        FaultStopper(searcher.rounds, head).stop_all()
    with pytest.raises(HeadLost) as lost:
        searcher.on_trial_complete("runs", error=True)
    searcher.on_head_lost(str(lost.value))
    assert searcher.rounds.over and searcher.rounds.stopped
    assert "h:1 does not answer" in str(searcher.rounds.runs[0].error)
    (trial,) = stage.record.trials()  # what had not begun is not in the study
    assert is_interrupted(trial) and "error" not in trial.user_attrs


def test_a_worker_that_died_while_the_head_was_away_is_no_fault_of_its_trial(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "_LOOKS_EVERY", 0.01)
    stage, answers = started(search={"trials": 1}), [True]
    searcher = search_of(stage, head=Head("h:1", lambda address: answers.pop(0) if answers else True))
    for _ in range(MOST_LOSSES + 1):
        searcher.suggest("a")
        searcher.start("a")
        answers[:] = [False]
        searcher.on_trial_complete("a", error=True)
    assert not stage.exhausted() and not stage.fault
    assert all(is_interrupted(trial) for trial in stage.record.trials())


@pytest.mark.parametrize("most", [1, 4])
def test_workers_that_end_before_they_begin_have_seen_no_candidate_and_too_many_stop_the_search(
    started: Started, most: int
) -> None:
    stage = started(search={"trials": 1})
    searcher, count = search_of(stage, most=most), 0
    for begins in (False, False, True, *[False] * 15):
        searcher.suggest("a")
        if begins:
            searcher.start("a")
            searcher.on_trial_complete("a", {"epoch": 1, "loss": 1.0, "val": 0.5, "seconds": 0.1}, True)
        else:
            searcher.on_trial_complete("a", error=True)
        count += 1
        if stage.fault:
            break
    assert count == 3 + max(6, 3 * most)
    assert stage.fault.startswith(
        f"{max(6, 3 * most)} of Ray's workers in a row ended before they began; why is in its logs"
    )
    assert all(is_interrupted(trial) for trial in stage.record.trials())


def test_what_a_worker_sent_is_in_the_run_folder_before_its_epoch_is_written_down(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = started(search={"trials": 1})
    searcher, kept = search_of(stage), stage.bench.config.folder / "checkpoints" / "x"
    searcher.suggest("a")
    searcher.start("a")
    on_epoch = TrainStage.on_epoch

    def look(*args: Any) -> bool:
        assert kept.read_bytes() == b"1"
        return on_epoch(*args)

    monkeypatch.setattr(TrainStage, "on_epoch", look)
    result = {"epoch": 1, "loss": 1.0, "val": 0.5, "seconds": 0.1, "sent": Sent({"checkpoints/x": b"1"})}
    assert searcher.on_epoch("a", result)
    assert result["sent"].taken() == {}


def test_a_disk_that_is_full_stops_the_search_and_uses_up_no_trial(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = started(search={"trials": 1})
    searcher = search_of(stage)
    searcher.suggest("a")
    searcher.start("a")
    stage.bench.files.write = lambda name, data: (_ for _ in ()).throw(OSError("disk full"))  # type: ignore[method-assign]
    result = {"epoch": 1, "loss": 1.0, "val": 0.5, "seconds": 0.1, "sent": Sent({"checkpoints/x": b"1"})}
    assert not searcher.on_epoch("a", result)
    searcher.on_trial_complete("a", result)
    assert "disk full" in stage.fault
    assert all(is_interrupted(trial) for trial in stage.record.trials())
