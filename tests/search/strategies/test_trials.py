from collections.abc import Callable

from petlas.search.stages.train import TrainStage
from petlas.search.strategies.base import Prices, Search
from petlas.search.strategies.trials import Trials
from petlas.search.study import StudyRecord
from petlas.search.workbench import Workbench


def test_there_is_one_stage_of_baselines_and_drawn_candidates(bench: Callable[..., Workbench]) -> None:
    found = bench(search={"baselines": True, "trials": 9})
    found.config.folder.mkdir(parents=True)
    (stage,) = Trials().stages(Search(found, StudyRecord.create(found.config.folder)))
    assert isinstance(stage, TrainStage)
    assert {entry.stage for entry in stage.queued} == {"baseline"}
    for _ in stage.queued:
        stage.begin(stage.propose())
    assert not stage.exhausted()
    assert stage.begin(stage.propose()).entry.stage == "search"


def test_it_costs_one_training_for_each_trial_at_most(bench: Callable[..., Workbench]) -> None:
    prices = Prices(bench(search={"trials": 9}), 0.03, 0.01, {"train": 800, "val": 200})
    assert [(cost.trials, cost.R) for cost in Trials().costs(prices, 5)] == [(9, 9.0)]
