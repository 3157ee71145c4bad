from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from petlas.petl import Design
from petlas.search.sensitivity import SensitivityReport
from petlas.search.strategies.base import Prices, Search, objectives_of
from petlas.search.strategies.baselines import baselines
from petlas.search.study import BASELINE, SEARCH, StudyRecord
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]


@pytest.fixture
def searching(bench: Bench) -> Callable[..., Search]:
    def searching(**groups: Any) -> Search:
        found = bench(**groups)
        found.config.folder.mkdir(parents=True, exist_ok=True)
        objectives, maximize = objectives_of(found)
        return Search(found, StudyRecord.create(found.config.folder, None, objectives, maximize))

    return searching


def test_what_a_strategy_asks_for_comes_first_then_the_baselines(
    searching: Callable[..., Search], lora: Callable[..., Design]
) -> None:
    search = searching(search={"baselines": True}, train={"epochs": 3}, seed=7)
    own = search.entries([lora(b0=1), lora(b0=2)], "sensitivity")
    assert [(e.candidate, e.fidelity, e.stage, e.params) for e in own] == [
        (Candidate(lora(b0=rank)), Fidelity(3, 7), "sensitivity", rank * 512) for rank in (1, 2)
    ]
    queued = search.training(own, draws=False).queued
    known = baselines(search.bench.shape, None, search.bench.cost)
    assert queued[:2] == tuple(own)
    assert [e.candidate.design for e in queued[2:]] == list(known.values())
    assert {e.stage for e in queued[2:]} == {BASELINE}
    assert not searching(search={"baselines": False}).training(draws=True).queued


def test_a_stage_that_draws_nothing_ends_with_its_queue(
    searching: Callable[..., Search], lora: Callable[..., Design]
) -> None:
    search = searching()
    assert search.training(draws=False).exhausted()
    assert not search.training(draws=True).exhausted()
    assert not search.training(search.entries([lora(b0=1)], SEARCH), draws=False).exhausted()


def test_seed_designs_come_of_the_sensitivity_where_the_run_asks_for_them(searching: Callable[..., Search]) -> None:
    sites = [{"attn.qkv": float(block)} for block in range(1, 7)]
    report = SensitivityReport("digits", "mini", "spt", "random", sites, [], {}, {})
    search = searching(search={"seed_designs": "sensitivity"})
    assert not search.training(draws=True).queued  # where nothing was measured
    search.sensitivity = report
    queued = search.training(draws=True).queued
    assert queued
    assert all(entry.candidate.design in search.bench.space for entry in queued)
    assert queued[0].params == search.bench.cost(search.bench.space.largest)
    assert not searching().training(draws=True).queued


@pytest.mark.parametrize(
    ("objectives", "found"), [(["accuracy"], ("accuracy",)), (["accuracy", "params"], ("accuracy", "params"))]
)
def test_a_study_has_the_objectives_of_the_run(
    searching: Callable[..., Search], objectives: list[str], found: tuple[str, ...]
) -> None:
    search = searching(search={"objectives": objectives})
    assert objectives_of(search.bench) == (found, True)
    assert search.record.objectives == len(found)
    draw = search.proposer(search.bench.space).draw()
    assert draw.candidate in search.bench.space


def test_designs_that_are_scored_are_of_the_space_without_settings(searching: Callable[..., Search]) -> None:
    space = {"methods": {"lora": {"blocks": [0], "sizes": [0, 1]}}, "settings": {"lr": [1e-3, 1e-2]}}
    search = searching(space=space)
    assert [setting.name for setting in search.bench.space.settings] == ["lr"]
    assert search.designs_only().settings == ()
    assert search.designs_only().count() == 2


def test_the_samplers_own_settings_reach_it(searching: Callable[..., Search]) -> None:
    def drawn(**evolution: Any) -> list[str]:
        search = searching(search={"sampler": "evolution", "evolution": evolution})
        proposer = search.proposer(search.bench.space)
        keys = []
        for number in range(6):
            draw = proposer.draw()
            assert draw.place is not None
            proposer.tell(draw.place, TrialState.COMPLETE, [number / 10])
            keys.append(draw.candidate.key)
        return keys

    small = {"population": 2, "parents": 1, "mutations": 2, "crossovers": 0}
    assert drawn(**small) == drawn(**small) != drawn()


def test_r_is_one_training_measured_after_each_epoch(bench: Bench) -> None:
    prices = Prices(bench(train={"epochs": 10}, search={"trials": 4}), 0.03, 0.01, {"train": 800, "val": 200})
    assert prices.one == pytest.approx(10 * (800 * 0.03 + 200 * 0.01))
    cost = prices.cost("scores", 50, 2.5 * prices.one)
    assert (cost.stage, cost.trials, cost.R, cost.seconds) == ("scores", 50, 2.5, pytest.approx(2.5 * prices.one))
    assert [prices.trained("x", wanted).trials for wanted in (3, 9)] == [3, 4]  # search.trials bounds them
    assert prices.trained("x", 3).R == 3.0
