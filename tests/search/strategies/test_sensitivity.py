from collections.abc import Callable

import pytest

from petlas.petl import Design
from petlas.search.sensitivity import Allocated, SensitivityReport
from petlas.search.stages.train import TrainStage
from petlas.search.strategies.base import Prices, Search
from petlas.search.strategies.sensitivity import SensitivityStrategy
from petlas.search.study import StudyRecord
from petlas.search.workbench import Workbench


def test_the_designs_of_the_budgets_are_trained_and_then_the_baselines_and_none_is_drawn(
    bench: Callable[..., Workbench], lora: Callable[..., Design]
) -> None:
    designs = [lora(b0=1), lora(b0=2, b5=1)]
    allocated = [Allocated(1000 * i, 512 * i, design.to_dict()) for i, design in enumerate(designs, 1)]
    report = SensitivityReport("digits", "mini", "spt", "random", [], allocated, {}, {})
    found = bench(strategy="sensitivity", search={"baselines": True})
    found.config.folder.mkdir(parents=True)
    search = Search(found, StudyRecord.create(found.config.folder), sensitivity=report)
    assert SensitivityStrategy.measures_sensitivity
    (stage,) = SensitivityStrategy().stages(search)
    assert isinstance(stage, TrainStage)
    assert [(e.stage, e.candidate.design) for e in stage.queued[:2]] == [("sensitivity", design) for design in designs]
    assert {entry.stage for entry in stage.queued[2:]} == {"baseline"}
    for _ in stage.queued:
        stage.begin(stage.propose())
    assert stage.exhausted()


@pytest.mark.parametrize(("budgets", "trials"), [([5_000, 9_000, 12_000], 8), (None, 12)])
def test_it_costs_one_training_for_each_budget(
    bench: Callable[..., Workbench], budgets: list[int] | None, trials: int
) -> None:
    """Without budgets of the user's there are seven."""
    found = bench(strategy="sensitivity", sensitivity={"budgets": budgets})
    prices = Prices(found, 0.03, 0.01, {"train": 800, "val": 200})
    assert [cost.trials for cost in SensitivityStrategy().costs(prices, 5)] == [trials]
