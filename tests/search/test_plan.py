from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

import pytest

from petlas.search.config import RunConfig
from petlas.search.plan import outline, plan
from petlas.search.reports.tables import plan_tables, show
from petlas.search.reports.text import duration
from petlas.search.timed_steps import StepCost, TimedSteps
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass of 0.01 s and a step of 0.03 s per image; any design's has 2 GFLOPs and keeps 1 MiB."""
    monkeypatch.setattr(TimedSteps, "measure", lambda self, design: StepCost(2e9, 0.03, 2**20))
    monkeypatch.setattr(import_module("petlas.search.plan"), "measure", lambda bench: (0.01, 0.03, 10**9, 3 * 32 * 32))


def test_a_search_by_trials_costs_at_most_one_run_for_each(make: Make) -> None:
    found = plan(make(search={"trials": 7}, train={"epochs": 10}, protocol={"retrain_seeds": 2}))
    one = 10 * (800 * 0.03 + 200 * 0.01)
    assert found.R_seconds == pytest.approx(one)
    assert [(s.stage, s.trials, s.R) for s in found.stages[:1]] == [("baselines and search", 7, 7.0)]
    retrain = found.stages[1]
    assert retrain.seconds == pytest.approx(2 * (10 * 1000 * 0.03 + 797 * 0.01), abs=0.1)
    assert found.designs == 9
    assert found.params == {"smallest": 0, "largest": 2 * 4 * 128 * 2, "budget": None}
    kept = 1000 * 7 * (2 * 2 + 1) * 128 * 4  # what enters and leaves 6 blocks
    assert found.disk == 1797 * 3 * 32 * 32 + kept + 12 * found.params["largest"]  # type: ignore[operator]
    assert found.disk - plan(make(search={"trials": 7}, resources={"cache_gb": 0})).disk == kept


def test_a_one_shot_search_costs_its_supernet_its_scores_and_its_finalists(make: Make) -> None:
    search = {"scores": 50, "finalists": 2, "ranking_check": 3, "baselines": False}
    for settings, passes in (({"sampling": "single"}, 1), ({"sampling": "sandwich", "random": 2}, 4)):
        supernet = {"epochs": 20, "warmup_epochs": 0} | settings
        found = plan(make(strategy="supernet", supernet=supernet, search=search, train={"epochs": 10}))
        seconds = {stage.stage: stage.seconds for stage in found.stages}
        assert seconds["supernet"] == pytest.approx(20 * 800 * 0.03 * passes)
        assert seconds["scores"] == pytest.approx(50 * 200 * 0.01)
        assert seconds["baselines and finalists"] == pytest.approx(5 * found.R_seconds)


def test_sensitivity_costs_a_look_at_some_images_and_one_training_for_each_budget(make: Make) -> None:
    settings = {"batches": 2, "batch_size": 50, "budgets": [5_000, 9_000]}
    found = plan(make(strategy="sensitivity", sensitivity=settings, train={"epochs": 10}))
    assert [stage.stage for stage in found.stages] == ["sensitivity", "baselines and sensitivity", "retrain"]
    assert found.stages[0].seconds == pytest.approx(1.5 * 100 * 0.03)
    assert found.stages[1].R == 2.0


def test_the_folds_of_the_finalists_are_trainings_on_what_a_fold_leaves(make: Make) -> None:
    found = plan(make(protocol={"folds": 4, "finalists": 3}, train={"epochs": 10}, search={"trials": 5}))
    (folds,) = (stage for stage in found.stages if stage.stage == "folds")
    assert folds.trials == 12
    assert folds.seconds == pytest.approx(12 * 10 * 750 * 0.03)
    twice = plan(make(protocol={"folds": 4, "finalists": 3, "repeats": 2}, train={"epochs": 10}, search={"trials": 5}))
    assert [stage.trials for stage in twice.stages if stage.stage == "folds"] == [24]
    assert "folds" not in [stage.stage for stage in plan(make()).stages]


def test_workers_and_the_limit_of_time_bound_the_seconds_in_all(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    alone = plan(make(search={"trials": 8}))
    many = plan(make(search={"trials": 8}, resources={"runner": "auto", "cpus": 2, "gpus": 0}))
    trials, retrain = alone.stages
    assert (trials.workers, many.stages[0].workers, many.stages[1].workers) == (1, 4, 1)
    assert alone.seconds == pytest.approx(trials.seconds + retrain.seconds, abs=0.2)
    assert many.seconds == pytest.approx(trials.seconds / 4 + retrain.seconds, abs=0.2)
    few = plan(make(search={"trials": 8}, resources={"runner": "ray", "cpus": 2, "concurrent": 3, "gpus": 0}))
    assert few.stages[0].workers == 3
    cut = plan(make(search={"trials": 8, "seconds": 1}))
    assert cut.seconds == pytest.approx(1 + cut.R_seconds + retrain.seconds, abs=0.2)  # what runs comes to its end


def test_the_measurement_is_of_this_backbone_and_restores_the_threads(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    found = plan(make())
    assert found.R_seconds > 0
    # Per token and block 2 * 12 D^2, and attention 4 N D, for 5 tokens of 128 channels in 6 blocks; plus 4 patches.
    assert found.flops == 5 * 6 * (24 * 128**2 + 4 * 5 * 128) + 4 * 2 * 3 * 16 * 16 * 128


def test_the_table_has_the_sum_and_times_in_readable_units(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    show(*plan_tables("run", asdict(plan(make()))))
    shown = capsys.readouterr().out
    assert "all, one after the other" in shown
    assert "1 R: one training run" in shown
    assert [duration(s) for s in (5, 119, 120, 7200, 200_000)] == ["5 s", "119 s", "2.0 min", "2.0 h", "2.3 days"]


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"runner": "inline"}, ", 1 at a time"),
        ({"runner": "auto", "gpus": 1, "address": "10.0.0.1:6379"}, ", as many as there is room for at a time"),
        ({"runner": "auto", "address": "10.0.0.1:6379", "concurrent": 6}, ", up to 6 at a time"),
    ],
)
def test_how_many_trials_a_cluster_has_room_for_is_not_told_before_it_is_asked(
    make: Make, resources: dict[str, Any], told: str
) -> None:
    assert told in outline(Workbench(make(resources=resources)))
