import json
import math
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from study_cases import Tried, by_size, record_of, trials, tried

from petlas.datasets import DataError
from petlas.errors import UserError
from petlas.petl import BackboneError, DesignError
from petlas.petl.design import Design
from petlas.search import driver as driver_module
from petlas.search.config import RunConfig
from petlas.search.driver import search, search_together
from petlas.search.objectives import ObjectiveError
from petlas.search.plan import plan
from petlas.search.run_folder import RunError
from petlas.search.stages.base import SearchStopped
from petlas.search.stages.training_run import TrainingRun
from petlas.search.strategies import get_strategy
from petlas.search.strategies.base import check_folds
from petlas.search.study import FOLDS, StudyRecord, candidate_of, design_of
from petlas.search.timed_steps import StepCost, TimedSteps
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate, SpaceError

Make = Callable[..., RunConfig]


def test_a_search_returns_its_best_trial_and_writes_its_design(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make()
    best = search(config)
    assert best is not None
    assert best.values[0] == max(t.values[0] for t in trials(config) if t.values)
    assert Design.load(config.folder / "best" / "design.yaml") == design_of(best)
    assert (config.folder / "study.journal").exists()
    assert (config.folder / "log.txt").read_text().count("trial ") == 9


def test_what_steps_cost_is_kept_for_a_search_that_goes_on(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured before there is a folder."""
    measured: list[Design] = []
    cost = StepCost(1e9, 1e-3, 2**20)
    monkeypatch.setattr(TimedSteps, "measure", lambda self, design: measured.append(design) or cost)
    for trials_in_all in (2, 3):
        assert not measured
        search(make(search={"trials": trials_in_all, "baselines": False}, budget={"latency_ms": 1e9}))
        assert bool(measured) == (trials_in_all == 2)
        measured.clear()


def test_the_study_is_copied_to_a_database_that_optunas_tools_read(make: Make, training: Any, exported: None) -> None:
    config = make(search={"trials": 3})
    search(config)
    copy = optuna.load_study(study_name=None, storage=f"sqlite:///{config.folder / 'study.db'}")
    assert [(t.state, t.values, t.user_attrs) for t in copy.trials] == [
        (t.state, t.values, t.user_attrs) for t in trials(config)
    ]


def test_repeating_a_finished_search_trains_nothing_and_changes_no_trial(make: Make, training: Any) -> None:
    config = make(search={"trials": 4})
    best = search(config)
    before = trials(config)
    training.started.clear()
    again = search(config)
    assert again == best
    assert training.started == []
    assert trials(config) == before
    assert "raise search.trials" in (config.folder / "log.txt").read_text()


def test_more_trials_go_on_from_where_the_search_ended_and_repeat_no_design(make: Make, training: Any) -> None:
    search(make(search={"trials": 4}))
    before = trials(make())
    search(make(search={"trials": 7}))
    assert trials(make())[:4] == before
    assert len(training.started) == len(set(training.started)) == 7


@pytest.mark.parametrize("objectives", [["accuracy"], ["accuracy", "params"]])
def test_a_search_in_two_parts_tries_what_one_part_tries(make: Make, training: Any, objectives: list[str]) -> None:
    training.curve = by_size
    options = {"sampler": "tpe", "baselines": True, "objectives": objectives}
    for name, parts in (("whole", (14,)), ("parts", (9, 12, 14))):
        for count in parts:
            search(make(name=name, search=options | {"trials": count}, train={"epochs": 9}))
    assert tried(make(name="whole")) == tried(make(name="parts"))
    assert len(tried(make(name="whole"))) == 14
    assert {len(t.values) for t in trials(make(name="whole")) if t.values} == {len(objectives)}


def test_a_search_whose_trials_all_fail_has_no_best(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: float("nan")
    config = make(search={"trials": 2})
    assert search(config) is None
    assert not (config.folder / "best").exists()


def test_other_settings_are_refused_and_the_study_stays(make: Make, training: Any) -> None:
    search(make(search={"trials": 2}))
    before = trials(make())
    with pytest.raises(RunError, match=r"train\.lr"):
        search(make(search={"trials": 9}, train={"lr": 0.5}))
    assert trials(make()) == before


def test_an_interrupted_search_leaves_no_running_trial_and_goes_on_with_the_same_design(
    make: Make, training: Any
) -> None:
    def interrupt(design: Design, epoch: int) -> float:
        if len(training.started) == 2:
            raise KeyboardInterrupt
        return 0.5

    training.curve = interrupt
    config = make(search={"trials": 4})
    with pytest.raises(KeyboardInterrupt):
        search(config)
    assert [t.state.name for t in trials(config)] == ["COMPLETE", "FAIL"]
    training.curve = by_size
    search(config)
    assert [t.state.name for t in trials(config)].count("FAIL") == 1
    assert training.started[1] == training.started[2]
    assert len(training.started) == len(set(training.started)) + 1 == 5


@pytest.mark.parametrize(
    ("groups", "error", "match"),
    [
        ({"task": {"name": "digist"}}, DataError, "digits"),
        (
            {"backbone": {"name": "vit_mini_patch16_64", "checkpoint": "/nowhere.safetensors"}},
            BackboneError,
            "nowhere",
        ),
        ({"backbone": {"name": "vit_mini_patch8_33"}}, BackboneError, "vit_mini"),
        ({"backbone": {"name": "vit_mni_patch16_64"}}, BackboneError, "did you mean vit_mini_patch16_64"),
        (
            {"budget": {"params": 3}, "space": {"methods": {"lora": {"blocks": "all", "sizes": [1]}}}},
            SpaceError,
            "least",
        ),
        ({"space": {"methods": {"lora": {"blocks": [6], "sizes": [0, 1]}}}}, SpaceError, "blocks 0 to 5"),
        ({"space": {"methods": {"adapter": {"blocks": "backbone", "sizes": [0, 1]}}}}, DesignError, "at blocks"),
        (
            {"space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 1], "options": {"x": 1}}}}},
            DesignError,
            "option",
        ),
    ],
)
def test_what_is_wrong_with_task_backbone_or_space_is_found_before_the_folder_is_made(
    make: Make, groups: dict[str, Any], error: type[Exception], match: str
) -> None:
    config = make(**groups)
    with pytest.raises(error, match=match):
        search(config)
    assert not Path(config.runs).exists()


def test_the_study_can_lie_in_another_database(make: Make, training: Any, tmp_path: Path) -> None:
    config = make(storage=f"sqlite:///{tmp_path / 'elsewhere.db'}", search={"trials": 2})
    search(config)
    assert not (config.folder / "study.db").exists()
    assert not (config.folder / "study.journal").exists()
    assert len(trials(config)) == 2


def test_two_runs_of_one_name_in_one_database_are_told_apart(make: Make, training: Any, tmp_path: Path) -> None:
    """And the study of the first is left as it is; with the same settings it goes on, wherever the folder lies."""
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    first = make(storage=shared, search={"trials": 2})
    search(first)
    with pytest.raises(RunError, match=r"(?s)the study .* holds a run with other settings.*train.lr: .*name=NAME"):
        search(make(storage=shared, search={"trials": 2}, runs=str(tmp_path / "b"), train={"lr": 0.5}))
    assert len(trials(first)) == 2
    search(make(storage=shared, search={"trials": 3}, runs=str(tmp_path / "c")))
    assert len(trials(first)) == 3


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_start_that_failed_before_its_first_trial_leaves_the_corrected_run_free(
    make: Make, training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}" if elsewhere else None
    with monkeypatch.context() as patch, pytest.raises(RunError, match="no room"):
        patch.setattr(driver_module, "open_runner", lambda *given: (_ for _ in ()).throw(RunError("no room")))
        search(make(storage=storage, search={"trials": 2}))
    assert search(make(storage=storage, search={"trials": 2}, train={"epochs": 1})) is not None


def test_a_search_never_looks_at_the_test_split(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real training: digits has 1,000 images for training and selection, and 797 test images."""
    opened: list[int] = []
    store = Workbench._store

    def spy(bench: Workbench, view: Any) -> Any:
        opened.append(len(view.source))
        return store(bench, view)

    monkeypatch.setattr(Workbench, "_store", spy)
    best = search(make(search={"trials": 2, "baselines": True}, train={"epochs": 1}))
    assert best is not None
    assert set(opened) == {1000}


# What changed under a run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A task of two classes, whose images are bright or dark."""
    folder = tmp_path / "pictures"
    for part, count in (("train", 8), ("val", 4), ("test", 4)):
        for label, shade in (("bright", 200), ("dark", 30)):
            (folder / part / label).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (32, 32), (shade + index, shade, 10 * len(part)))
                image.save(folder / part / label / f"{index}.png")
    return folder


def test_data_that_changed_under_a_run_are_refused_and_the_same_data_are_not(
    make: Make, training: Any, pictures: Path
) -> None:
    """Whatever time the files are of."""
    search(make(task={"name": str(pictures)}, search={"trials": 2}))
    moved = pictures / "train" / "bright" / "0.png"
    content = moved.read_bytes()
    moved.write_bytes((pictures / "train" / "dark" / "0.png").read_bytes())
    with pytest.raises(RunError, match="contents of train and val"):
        search(make(task={"name": str(pictures)}, search={"trials": 3}))
    moved.write_bytes(content)
    search(make(task={"name": str(pictures)}, search={"trials": 3}))
    assert len(trials(make())) == 3


def test_weights_that_changed_under_a_run_are_refused(make: Make, training: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from petlas.petl import MINI
    from petlas.petl.mini import mini_file

    weights = tmp_path / "weights.safetensors"
    shutil.copy(mini_file(MINI), weights)
    backbone = {"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": str(weights)}
    search(make(backbone=backbone, search={"trials": 2}))
    state = load_file(weights)
    state["norm.weight"] = state["norm.weight"] + 0.01
    save_file(state, weights)
    with pytest.raises(RunError, match="weights of the backbone"):
        search(make(backbone=backbone, search={"trials": 3}))


def test_a_study_says_what_it_is_of(make: Make, training: Any) -> None:
    config = make(search={"trials": 1})
    search(config)
    about = record_of(config).about
    assert {"name": "accuracy", "maximize": True}.items() <= about["metric"].items()
    assert (about["classes"], about["images"]) == (10, {"train": 800, "val": 200})
    assert {"petlas", "train.lr", "contents of train and val", "weights of the backbone"} <= about["identity"].keys()


# The clock


def test_the_clock_goes_on_over_a_resume(make: Make, training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds a trial: thirty seconds are three trials, in one process or in several."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(design: Design, epoch: int) -> float:
        now[0] += 5.0
        return 0.5

    training.curve = slow
    whole = make(name="whole", search={"seconds": 30})
    search(whole)
    assert len(trials(whole)) == 3

    search(make(name="parts", search={"seconds": 30, "trials": 2}))
    now[0] += 1000.0  # while nothing was searched
    parts = make(name="parts", search={"seconds": 30})
    search(parts)
    assert len(trials(parts)) == 3
    assert record_of(parts).elapsed == pytest.approx(30.0)
    search(make(name="parts", search={"seconds": 50}))
    assert len(trials(parts)) == 5


def test_a_limit_of_time_that_is_over_still_lets_the_baselines_run(make: Make, training: Any) -> None:
    config = make(search={"seconds": 1e-9, "baselines": True})
    search(config)
    assert {t.user_attrs["stage"] for t in trials(config)} == {"baseline"}
    assert len(trials(config)) > 3


# What is tried again


def test_a_search_that_has_all_its_trials_tries_those_that_failed_again_where_it_is_asked_to(
    make: Make, training: Any
) -> None:
    def fragile(design: Design, epoch: int) -> float:
        if len(training.started) == 2:
            raise MemoryError("too large")
        return 0.5

    training.curve = fragile
    search(make(search={"trials": 4}))
    search(make(search={"trials": 4}))
    assert [t.state.name for t in trials(make())] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    search(make(search={"trials": 4, "retry_failed": True}))
    assert [t.state.name for t in trials(make())] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert training.started[4] == training.started[1]
    assert record_of(make()).count_trained() == 4


def test_a_search_that_the_surroundings_stopped_goes_on_with_all_its_trials(make: Make, training: Any) -> None:
    def full(design: Design, epoch: int) -> float:
        raise OSError(28, "No space left on device")

    training.curve = full
    config = make(search={"trials": 3})
    for _ in range(4):
        with pytest.raises(SearchStopped, match="No space left on device"):
            search(config)
    assert record_of(config).count_trained() == 0
    training.curve = by_size
    search(config)
    assert [each.state for each in tried(config)] == ["COMPLETE"] * 3


# Settings that are searched with the design


def test_a_learning_rate_is_drawn_learned_and_trained_with(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best learning rate is 3e-3, and TPE comes close to it; what a trial has is what it is trained with."""

    class ByRate:
        def __init__(self, bench: Workbench, proposal: Any) -> None:
            self._lr = dict(proposal.entry.candidate.settings)["lr"]
            self._epochs, self._done = proposal.entry.fidelity.epochs, 0

        @property
        def finished(self) -> bool:
            return self._done >= self._epochs

        def epoch(self) -> EpochResult:
            self._done += 1
            return EpochResult(self._done, 1.0, 1 - abs(math.log10(self._lr / 3e-3)), 0.1)

    monkeypatch.setattr("petlas.search.runners.inline.open_work", ByRate)
    space = {
        "methods": {"lora": {"blocks": [0, 5], "sizes": [0, 1, 2]}},
        "settings": {"lr": {"low": 3e-4, "high": 2e-2, "log": True}},
    }
    config = make(space=space, search={"sampler": "tpe", "trials": 30})
    best = search(config)
    assert best is not None
    found = [t.user_attrs["settings"]["lr"] for t in trials(config)]
    assert len(set(found)) == 30
    assert all(3e-4 <= lr <= 2e-2 for lr in found)
    assert [t.params["lr"] for t in trials(config)] == pytest.approx(found)

    def distance(rates: list[float]) -> float:
        return statistics.median(abs(math.log10(lr / 3e-3)) for lr in rates)

    assert distance(found[20:]) < 0.6 * distance(found[:10])
    written = yaml.safe_load((config.folder / "best" / "design.yaml").read_text())
    assert written["settings"] == {"lr": pytest.approx(best.user_attrs["settings"]["lr"])}
    assert Candidate.load(config.folder / "best" / "design.yaml") == candidate_of(best)


def test_a_drawn_learning_rate_is_the_one_of_the_training(
    make: Make, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    train_epoch = TrainingRun.train_epoch
    monkeypatch.setattr(TrainingRun, "train_epoch", lambda run: rates.append(run.train.lr) or train_epoch(run))
    space = {"methods": {"lora": {"blocks": [0], "sizes": [0, 1]}}, "settings": {"lr": [1e-3, 5e-3]}}
    train = {"epochs": 1, "batch_size": 40}
    config = make(task={"name": few_digits}, space=space, train=train, search={"trials": 9})
    search(config)
    assert rates == [t.user_attrs["settings"]["lr"] for t in trials(config)]
    assert len(rates) == 4  # two designs with two rates each, and the space is at its end
    assert len({t.values[0] for t in trials(config)}) > 1


# Folds


def test_finalists_are_compared_on_folds_and_the_choice_is_by_their_pooled_value(
    make: Make, monkeypatch: pytest.MonkeyPatch, training: Any
) -> None:
    """The larger of two designs is better on the selection split, and worse on the folds."""

    class Folded:
        def __init__(self, bench: Workbench, proposal: Any) -> None:
            self._entry, self.finished = proposal.entry, False
            training.started.append(str(proposal.entry.fidelity))

        def epoch(self) -> EpochResult:
            self.finished = True
            size = by_size(self._entry.candidate.design, 0)
            value = size if self._entry.fidelity.fold is None else 0.9 - size
            return EpochResult(1, 1.0, value, 0.1)

    monkeypatch.setattr("petlas.search.runners.inline.open_work", Folded)
    config = make(protocol={"folds": 3, "finalists": 2}, train={"epochs": 1}, search={"trials": 20})
    without = search(make(name="without", train={"epochs": 1}))
    training.started.clear()
    best = search(config)
    assert best is not None
    assert without is not None
    record = record_of(config)
    assert len(record.counted(FOLDS)) == 6
    first, second = record.leaders(2)
    assert (without.user_attrs["key"], best.number) == (first.user_attrs["key"], second.number)
    assert Design.load(config.folder / "best" / "design.yaml") == design_of(second)
    pooled = record.evidence().pooled(second.user_attrs["key"])
    assert pooled is not None
    assert (pooled.images, pooled.value) == (1000, pytest.approx(0.9 - second.values[0]))
    training.started.clear()
    assert search(config) == best
    assert training.started == []


def test_folds_go_on_where_they_were_cut_off(make: Make, training: Any) -> None:
    training.curve = by_size
    options = {"protocol": {"folds": 3, "finalists": 2}, "search": {"trials": 3}}
    whole = make(name="whole", **options)
    search(whole)
    count = len(training.started)
    assert count == 9

    def interrupt(design: Design, epoch: int) -> float:
        if len(training.started) == count + 6 and epoch == 2:
            raise KeyboardInterrupt
        return by_size(design, epoch)

    training.curve = interrupt
    cut = make(name="cut", **options)
    with pytest.raises(KeyboardInterrupt):
        search(cut)
    training.curve = by_size
    search(cut)
    assert tried(cut) == tried(whole)
    assert len(training.started) == 2 * count + 1


@pytest.mark.parametrize("metric", ["accuracy", "mean_per_class"])
def test_real_folds_hold_out_every_image_once(make: Make, few_digits: str, metric: str) -> None:
    config = make(
        task={"name": few_digits, "metric": metric},
        protocol={"folds": 3, "finalists": 1},
        train={"epochs": 1, "batch_size": 40},
        search={"trials": 1},
    )
    assert search(config) is not None
    record, bench = record_of(config), Workbench(config)
    folds = record.counted(FOLDS)
    assert [t.user_attrs["fold"] for t in folds] == [0, 1, 2]
    assert sum(t.user_attrs["images"] for t in folds) == 240
    assert all(0 <= t.values[0] <= 1 for t in folds)
    key = folds[0].user_attrs["key"]
    views = [bench.views(Fidelity(1, 0, fold, 3))[1] for fold in range(3)]
    told = [record.evidence().measured[key][Fidelity(1, 0, fold, 3)] for fold in range(3)]
    classes, right = np.concatenate([v.targets for v in views]), np.concatenate([m.correct for m in told])
    said = np.where(right, classes, (classes + 1) % 10)
    score = balanced_accuracy_score if metric == "mean_per_class" else accuracy_score
    pooled = record.evidence().pooled(key)
    assert pooled is not None
    assert pooled.value == pytest.approx(score(classes, said))
    assert pooled.error > 0


def test_finalists_are_measured_on_folds_that_are_dealt_anew_for_each_repeat(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make(protocol={"folds": 2, "finalists": 2, "repeats": 2}, search={"trials": 3})
    search(config)
    own = [
        (t.user_attrs["seed"], t.user_attrs.get("repeat", 0), t.user_attrs["fold"])
        for t in record_of(config).counted(FOLDS)
    ]
    assert own == [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)] * 2
    started = len(training.started)
    assert search(config) is not None
    assert len(training.started) == started


RARE = {"train": 12, "val": 6, "test": 6}


def test_a_metric_that_ranks_images_is_not_compared_on_folds_that_lack_a_class(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "tags"
    folder.mkdir()
    (folder / "classes.txt").write_text("cat\ndog\nrare\n")
    for part, count in RARE.items():
        lines = []
        for i in range(count):
            Image.new("RGB", (8, 8), (10 * i, len(part), 5)).save(folder / f"{part}{i}.png")
            lines.append(f"{part}{i}.png {'0,2' if (part, i) == ('train', 0) else i % 2}")
        (folder / f"{part}.txt").write_text("\n".join(lines))
    fault = (
        r"mAP over folds needs each class in each of the 2 folds of train and val, and rare \(1 image\) is missing in "
        r"one; give it more images, leave it out, or take strategy=trials without protocol.folds"
    )
    refused = [make(task=str(folder), strategy="auto"), make(task=str(folder), protocol={"folds": 2})]
    for config in refused:
        for act in (search, plan):
            with pytest.raises(ObjectiveError, match=fault):
                act(config)
        assert not config.folder.exists()
    check_folds(get_strategy("trials"), Workbench(make(task=str(folder))))


CROWDED = (
    "4,8,10 0,1,3,4 0,1,3,4,6 4,6,7,10,11 4,11 0,1,5,6,8,9 0,6,7 1,2,4,5,6,7,11 0,1,2,7,10 1,3,8 3,8,9,10 0,3,4,7,9 "
    "5,7,9 1,7,9,10 0,1,6,7,11 0,3,6,8 0,1,2,4,7 0,3,10,11 0,3,8,10 0,2,3,5,6,7 1,2,3,5,7,9 4,8,9 1 7 0,1,2,10 "
    "0,3,4,8 2 1,3,9,11 0,7,10 2,5,7,9,10,11"
)
"""The classes of 30 images: each class is in each of 5 folds when they are first dealt, and not when dealt anew."""


def test_a_class_that_is_missing_in_a_fold_of_a_later_deal_is_told_too(make: Make, tmp_path: Path) -> None:
    folder, lines = tmp_path / "tags", []
    folder.mkdir()
    (folder / "classes.txt").write_text("\n".join(f"class{i}" for i in range(12)))
    for i, classes in enumerate(CROWDED.split()):
        Image.new("RGB", (8, 8), (8 * i, 1, 5)).save(folder / f"{i:02}.png")
        lines.append(f"{i:02}.png {classes}")
    for part, own in (("train", lines[:24]), ("val", lines[24:]), ("test", [])):
        Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "test.png")
        (folder / f"{part}.txt").write_text("\n".join(own or ["test.png 0,1,2,3,4,5,6,7,8,9,10,11"]))
    trials, auto = get_strategy("trials"), get_strategy("auto")
    check_folds(trials, Workbench(make(task=str(folder), protocol={"folds": 5})))
    with pytest.raises(ObjectiveError, match="mAP over folds needs each class in each of the 5 folds"):
        check_folds(trials, Workbench(make(task=str(folder), protocol={"folds": 5, "repeats": 2})))
    short, long = (
        Workbench(make(task=str(folder), train={"epochs": 9}, search={"cost": r, "trials": 9999})) for r in (1, 400)
    )
    assert (auto.deals(short), auto.deals(long)) == (1, 2)
    check_folds(auto, short)
    with pytest.raises(ObjectiveError, match="is missing in one"):
        check_folds(auto, long)


def test_nothing_is_started_where_nothing_is_left(make: Make, training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(search={"trials": 2})
    search(config)
    monkeypatch.setattr(driver_module, "open_runner", lambda config: pytest.fail("a runner was opened"))
    search(config)


def test_a_design_that_is_no_longer_the_best_is_named_where_its_adapter_lies(
    make: Make, training: Any, exported: None, caplog: pytest.LogCaptureFixture
) -> None:
    training.curve = by_size
    config = make(search={"trials": 1})
    search(config)
    (config.folder / "best" / "adapter.safetensors").write_bytes(b"")
    search(make(search={"trials": 9}))
    assert "no longer the best" in (config.folder / "log.txt").read_text()
    assert json.loads(json.dumps(Design.load(config.folder / "best" / "design.yaml").to_dict()))
    assert sqlite3.connect(config.folder / "study.db").execute("select count(*) from trials").fetchone() == (9,)


# Several searches at once


def one_by_one(make: Make, runs: dict[str, dict[str, Any]]) -> dict[str, list[Tried]]:
    """What each run tries when it is searched on its own."""
    for name, options in runs.items():
        search(make(name=f"{name}-alone", **options))
    return {name: tried(make(name=f"{name}-alone")) for name in runs}


@pytest.mark.parametrize("sampler", ["tpe", "evolution"])
def test_searches_at_once_take_turns_and_try_what_they_try_one_after_the_other(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Each is fair to the others by seconds of work: the run with half the epochs has twice as many trials by then."""
    evolution = {"population": 5, "parents": 2, "mutations": 2, "crossovers": 2}
    settings = {"sampler": sampler, "baselines": True, "evolution": evolution}
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}
    runs = {
        "long": {"seed": 1, "train": {"epochs": 9}, "search": settings | {"trials": 14, "reduction": 100}},
        "short": {"seed": 2, "train": {"epochs": 3}, "search": settings | {"trials": 14, "reduction": 100}},
        "few": {"seed": 3, "train": {"epochs": 9}, "search": settings | {"trials": 10}},
    }
    runs = {name: options | {"space": space} for name, options in runs.items()}
    training.curve = by_size
    alone = one_by_one(make, runs)
    order: list[str] = []
    begin = StudyRecord.begin
    monkeypatch.setattr(StudyRecord, "begin", lambda record, *args: order.append(record.name) or begin(record, *args))
    configs = [make(name=name, **options) for name, options in runs.items()]
    found = search_together(configs)
    assert {config.name: tried(config) for config in configs} == alone
    assert set(order[:3]) == set(runs)
    assert order[:12].count("short") > order[:12].count("long") > 0
    assert order != sorted(order, key=list(runs).index)
    for config, each in zip(configs, found, strict=True):
        assert each.error is None
        assert each.best is not None
        assert Design.load(config.folder / "best" / "design.yaml") == design_of(each.best)
        assert (config.folder / "study.db").exists()
        assert not (config.folder / "checkpoints").exists()


def test_each_of_several_searches_has_its_own_log(make: Make, training: Any) -> None:
    configs = [make(name=name, search={"trials": count}) for name, count in (("a", 2), ("b", 3))]
    search_together(configs)
    logs = [(config.folder / "log.txt").read_text() for config in configs]
    assert [text.count("INFO trial ") for text in logs] == [2, 3]
    assert [text.count("at most 2 ") + text.count("at most 3 ") for text in logs] == [1, 1]


def test_a_search_that_stops_does_not_take_the_others_along_and_goes_on_when_it_is_mended(
    make: Make, monkeypatch: pytest.MonkeyPatch, training: Any
) -> None:
    runs = {name: {"seed": seed, "search": {"trials": 4}} for seed, name in enumerate("abc")}
    training.curve = by_size
    alone = one_by_one(make, runs)
    configs = [make(name=name, **options) for name, options in runs.items()]

    def broken(bench: Workbench, proposal: Any) -> Any:
        if bench.config.name == "b" and len(trials(bench.config)) == 3:
            raise DataError("image 7 is cut off")
        return training(bench, proposal)

    with monkeypatch.context() as patch:
        patch.setattr("petlas.search.runners.inline.open_work", broken)
        a, b, c = search_together(configs)
    assert isinstance(b.error, SearchStopped)
    assert "image 7" in str(b.error)
    assert b.best is None
    assert all(each.error is None and each.best is not None for each in (a, c))
    assert [len(tried(config)) for config in configs] == [4, 2, 4]
    assert all("image 7" in (config.folder / "log.txt").read_text() for config in configs[1:2])
    assert not any("image 7" in (config.folder / "log.txt").read_text() for config in (configs[0], configs[2]))
    assert [each.error for each in search_together(configs)] == [None] * 3
    assert {config.name: tried(config) for config in configs} == alone


def test_a_disk_that_is_full_for_one_study_stops_that_search_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch, training: Any
) -> None:
    finish = StudyRecord.finish

    def full(record: StudyRecord, *args: Any) -> None:
        if record.name == "a":
            raise OSError(28, "No space left on device")
        finish(record, *args)

    configs = [make(name=name, search={"trials": 3}) for name in "ab"]
    with monkeypatch.context() as patch:
        patch.setattr(StudyRecord, "finish", full)
        first, second = search_together(configs)
    assert isinstance(first.error, OSError)
    assert second.error is None
    assert [len(tried(config)) for config in configs] == [0, 3]
    assert "RUNNING" not in {t.state.name for t in trials(configs[0])}


def test_all_that_is_wrong_with_several_searches_is_told_before_the_first_starts(make: Make, training: Any) -> None:
    """One alone in its own words, several each behind its name."""
    good, bad = make(name="good"), make(name="bad", task={"name": "digist"})
    with pytest.raises(DataError, match="digits"):
        search_together([good, bad])
    worse = make(name="worse", backbone={"name": "vit_mni_patch16_64"})
    with pytest.raises(UserError, match=r"(?s)^bad: .*digits.*\nworse: .*did you mean vit_mini_patch16_64"):
        search_together([good, bad, worse])
    assert training.started == []
    assert not good.folder.exists()


def test_ctrl_c_leaves_no_running_trial_in_any_of_several_studies(make: Make, training: Any) -> None:
    def interrupt(design: Design, epoch: int) -> float:
        if len(training.started) == 4:
            raise KeyboardInterrupt
        return by_size(design, epoch)

    runs = {name: {"seed": seed, "search": {"trials": 4}} for seed, name in enumerate("ab")}
    training.curve = by_size
    alone = one_by_one(make, runs)
    training.started.clear()
    training.curve = interrupt
    configs = [make(name=name, **options) for name, options in runs.items()]
    with pytest.raises(KeyboardInterrupt):
        search_together(configs)
    assert all("RUNNING" not in {t.state.name for t in trials(config)} for config in configs)
    assert sum(len(tried(config)) for config in configs) == 3
    training.curve = by_size
    search_together(configs)
    assert {config.name: tried(config) for config in configs} == alone
