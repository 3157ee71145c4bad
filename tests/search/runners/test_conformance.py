"""Every strategy on every runner: it ends, it goes on after an interruption, and it plans. And what others may add."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from study_cases import Tried, tried

from petlas.search.config import RunConfig
from petlas.search.driver import search, search_together
from petlas.search.plan import plan
from petlas.search.runners import RUNNERS
from petlas.search.stages import WORKS, open_work
from petlas.search.stages.base import Proposal, Stage
from petlas.search.stages.train import TrainStage
from petlas.search.strategies import STRATEGIES, get_strategy
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy
from petlas.search.study import StudyRecord
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]
FEW = {
    "train": {"epochs": 2, "batch_size": 40, "lr": 5e-3},
    "supernet": {"epochs": 1, "warmup_epochs": 0},
    "sensitivity": {"batches": 1, "batch_size": 10, "budgets": [600, 2000]},
    "search": {"trials": 2, "scores": 3, "finalists": 2},
}
OPTIONS: dict[str, dict[str, Any]] = {strategy: {"strategy": strategy} | FEW for strategy in STRATEGIES}
OPTIONS["trials"] |= {"seed": 1}
OPTIONS["supernet"] |= {"task": {"metric": "mean_per_class"}}
OPTIONS["sensitivity"] |= {"seed": 2, "train": {"epochs": 1, "batch_size": 40, "lr": 1e-2}}
"""Different in task, rate and seed."""


def options_of(strategy: str, task: str) -> dict[str, Any]:
    """What a strategy's run is given."""
    return OPTIONS[strategy] | {"task": {"name": task} | OPTIONS[strategy].get("task", {})}


@pytest.fixture(scope="module")
def whole(module_make: Make, few_digits: str) -> dict[str, list[Tried]]:
    """What came of each strategy's search that was neither interrupted nor beside others, in this process."""
    found = {}
    for strategy in OPTIONS:
        config = module_make(name=f"{strategy}-whole", **options_of(strategy, few_digits))
        assert search(config) is not None
        found[strategy] = tried(config)
        assert {each.state for each in found[strategy]} <= {"COMPLETE", "PRUNED"}
    return found


@pytest.fixture(scope="module", params=RUNNERS)
def resumed(request: pytest.FixtureRequest, module_make: Make, few_digits: str) -> dict[str, RunConfig]:
    """Each strategy's run: it was cut off in its second trial, and all of them went on at once on one runner."""
    configs: dict[str, RunConfig] = {}
    for strategy in OPTIONS:
        name, options = f"{strategy}-{request.param}", options_of(strategy, few_digits)
        cut_off_in_the_second_trial(module_make(name=name, **options))
        configs[strategy] = module_make(name=name, **options, resources={"runner": request.param, "concurrent": 1})
    if request.param == "ray":
        request.getfixturevalue("local_ray")
    for found in search_together(list(configs.values())):
        assert found.error is None
        assert found.best is not None
    return configs


def cut_off_in_the_second_trial(config: RunConfig) -> None:
    opened: list[Proposal] = []

    def end_at_the_second(bench: Workbench, proposal: Proposal) -> Work:
        if proposal.entry is not None:  # a trial
            opened.append(proposal)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return open_work(bench, proposal)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("petlas.search.runners.inline.open_work", end_at_the_second)
        search(config)
    assert len(tried(config)) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_searches_end_and_go_on_after_an_interruption_as_each_would_have_been_alone(
    resumed: dict[str, RunConfig], whole: dict[str, list[Tried]], strategy: str
) -> None:
    """To the digit, whichever runner does what is left, and though it does one after the other what is of others."""
    cut = resumed[strategy]
    assert tried(cut) == whole[strategy]
    assert (cut.folder / "best" / "design.yaml").exists()
    assert not StudyRecord.read(cut.folder).cut_off()
    search(cut)
    assert tried(cut) == whole[strategy]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_is_planned(make: Make, strategy: str, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["petlas.search.plan"], "measure", lambda bench: (0.01, 0.03, 10**9, 3072))
    found = plan(make(strategy=strategy, **FEW | {"resources": {"runner": runner, "gpus": 0}}))
    assert found.stages
    assert found.stages[-1].stage == "retrain"
    assert all(cost.trials > 0 and cost.seconds > 0 and cost.R > 0 for cost in found.stages)
    assert all(cost.workers >= 1 for cost in found.stages)


# From outside: one class, and one line


class Reversed(Strategy):
    """A strategy of others: every design of the space, the last one first."""

    summary = "the space from its end"

    def stages(self, search: Search) -> Iterator[Stage]:
        designs = [*search.bench.space.designs(search.bench.budget)]
        yield search.training(search.entries(reversed(designs), "reversed"), draws=False)

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        yield prices.trained("reversed", known + prices.bench.space.count())


class Counting:
    """A kind of work of others: the value is the number of parameters, and nothing is trained."""

    def __init__(self, bench: Workbench, proposal: Proposal) -> None:
        self._params, self.finished = proposal.entry.params, False

    def epoch(self) -> EpochResult:
        self.finished = True
        return EpochResult(2, 0.0, self._params / 10_000, 0.1)


class CountingStage(TrainStage):
    work = "counting"


class CountingStrategy(Strategy):
    summary = "parameters are counted"

    def stages(self, search: Search) -> Iterator[Stage]:
        yield CountingStage(search.bench, search.record, proposer=search.proposer(search.bench.space))

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        yield from ()


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The importable name of a module of others."""
    module = ModuleType("others_of_petlas")
    for own in (Reversed, Counting, CountingStrategy):
        setattr(module, own.__name__, own)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module.__name__
    get_strategy.cache_clear()


def test_a_strategy_of_others_is_one_class_and_one_line(
    make: Make, training: Any, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "reversed", f"{others}:Reversed")
    config = make(strategy="reversed", search={"trials": 4})
    bench = Workbench(config)
    assert search(config) is not None
    trials = StudyRecord.read(config.folder).trials()
    assert [t.user_attrs["key"] for t in trials] == [
        design.key for design in reversed([*bench.space.designs(bench.budget)])
    ][:4]
    assert {t.user_attrs["stage"] for t in trials} == {"reversed"}
    monkeypatch.setattr(sys.modules["petlas.search.plan"], "measure", lambda bench: (0.01, 0.03, 10**9, 3072))
    assert [cost.stage for cost in plan(config).stages] == ["reversed", "retrain"]


def test_a_kind_of_work_of_others_is_one_class_and_one_line(
    make: Make, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "counting", f"{others}:CountingStrategy")
    monkeypatch.setitem(WORKS, "counting", f"{others}:Counting")
    config = make(strategy="counting")
    best = search(config)
    assert best is not None
    trials = StudyRecord.read(config.folder).trials()
    assert [t.values[0] for t in trials] == [t.user_attrs["params"] / 10_000 for t in trials]
    assert best.user_attrs["params"] == max(t.user_attrs["params"] for t in trials)
