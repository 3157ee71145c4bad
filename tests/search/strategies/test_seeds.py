from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from petlas.petl import Design
from petlas.search.sensitivity import SensitivityReport
from petlas.search.stages.base import Stage
from petlas.search.stages.rung import RungStage
from petlas.search.stages.score import ScoreStage
from petlas.search.stages.supernet import SupernetStage
from petlas.search.strategies.auto import Auto
from petlas.search.strategies.base import Prices, Search
from petlas.search.strategies.seeds import seed_price, seeds
from petlas.search.study import PORTFOLIO, StudyRecord
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

SPACE = {
    "methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}, "adapter": {"blocks": "all", "sizes": [0, 2, 4]}}
}
SUPERNET = {"epochs": 9, "warmup_epochs": 0}
Searching = Callable[..., Search]


@pytest.fixture
def searching(bench: Callable[..., Workbench]) -> Searching:
    def searching(sensitivity: SensitivityReport | None = None, supernet: Any = SUPERNET, **search: Any) -> Search:
        train = {"epochs": 9, "batch_size": 200}
        settings = {"sampler": "evolution", "scores": 20, "finalists": 2, "cost": 6} | search
        own = {"strategy": "auto", "space": SPACE, "budget": {"params": 12_000}, "train": train, "supernet": supernet}
        found = bench(search=settings, **own)
        found.config.folder.mkdir(parents=True, exist_ok=True)
        record = StudyRecord.create(found.config.folder)
        record.claim({"epochs": 9, "images": {"train": 800, "val": 200}})
        return Search(found, record, sensitivity=sensitivity)

    return searching


def worth(design: Design) -> float:
    return 0.5 + sum((p.size or 0) * (1 + (p.block or 0)) for p in design.placements) / 400


def do(stage: Stage) -> list[Design]:
    """Do a stage's work; the designs that were tried, in order."""
    tried = []
    while not stage.exhausted():
        proposal = stage.begin(stage.propose())
        if proposal.entry is None:
            stage.on_end(proposal.number, None)
            continue
        tried.append(proposal.tried.candidate.design)
        result = EpochResult(max(1, proposal.tried.fidelity.epochs), 1.0, worth(tried[-1]), 0.1)
        stage.on_epoch(proposal.number, result)
        stage.on_end(proposal.number, result)
    return tried


def opening(search: Search) -> list[Design]:
    """The designs of the portfolio's stages, in order; what comes before them is done."""
    found = []
    for stage in Auto().stages(search):
        own = isinstance(stage, RungStage) and stage.queued[0].stage == PORTFOLIO
        if isinstance(stage, RungStage) and not own:
            break
        tried = do(stage)
        found += tried if own else []
    return found


def test_without_being_asked_for_none_are_found_and_cost_nothing(searching: Searching) -> None:
    search = searching()
    assert (seeds(search), seed_price(search.bench)) == ([], 0.0)
    assert isinstance(next(iter(Auto().stages(search))), RungStage)


def test_designs_by_sensitivity_join_the_first_of_the_portfolio(searching: Searching) -> None:
    sites = [{"attn.qkv": float(block), "mlp.fc2": 1.0} for block in range(1, 7)]
    report = SensitivityReport("digits", "mini", "spt", "random", sites, [], {}, {})
    search = searching(report, seed_designs="sensitivity")
    found = opening(search)
    assert seeds(search)
    assert set(seeds(search)) <= set(found[:8])
    assert 0 < seed_price(search.bench) < 0.2


def test_the_best_by_score_join_the_first_of_the_portfolio_within_the_cost(searching: Searching) -> None:
    search = searching(seed_designs="supernet")
    first, second = islice(Auto().stages(search), 2)
    assert isinstance(first, SupernetStage)
    assert isinstance(second, ScoreStage)
    found, best = opening(search), seeds(search)
    assert len(best) == 2
    assert set(best) <= set(found[:8])
    assert seed_price(search.bench) == pytest.approx((9 * 800 + 20 * 200 / 3) / (9 * (800 + 200 / 3)))
    for stage in Auto().stages(search):
        do(stage)
    spent = seed_price(search.bench) + sum(map(search.record.cost, search.record.counted()))
    assert 0.95 * 6 < spent <= 6 + 1e-9
    prices = Prices(search.bench, 3.0, 1.0, {"train": 800, "val": 200, "trainval": 1000})
    costs = [*Auto().costs(prices, 0)]
    assert [cost.stage for cost in costs][:2] == ["supernet", "scores"]
    assert sum(cost.R for cost in costs) == pytest.approx(spent, rel=0.05)


def test_in_a_small_search_what_was_paid_for_comes_before_the_portfolio(searching: Searching) -> None:
    search = searching(seed_designs="supernet", cost=2.2)
    found = opening(search)
    assert 2 <= len(found) <= 5
    assert not found[0].placements
    assert len(set(seeds(search)) & set(found)) == min(2, len(found) - 1)


def test_a_supernet_that_would_take_more_than_half_is_left_out_with_a_line(searching: Searching, caplog: Any) -> None:
    search = searching(seed_designs="supernet", supernet={"epochs": 100})
    assert isinstance(next(iter(Auto().stages(search))), RungStage)
    assert "a supernet would take 10.4 R, more than half of search.cost=6: nothing is scored" in caplog.text
    assert seed_price(search.bench) == 0
