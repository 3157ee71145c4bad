"""Every strategy on every runner: it ends, it goes on after an interruption, and it plans. And what others may add."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.plan import plan
from petlas.search.runners import RUNNERS
from petlas.search.stages import WORKS, open_work
from petlas.search.stages.base import Proposal, Stage
from petlas.search.stages.train import TrainStage
from petlas.search.strategies import STRATEGIES, get_strategy
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy
from petlas.search.study import StudyRecord, is_interrupted
from petlas.search.training import EpochResult, Work
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]
FEW = {
    "train": {"epochs": 2, "batch_size": 400},
    "supernet": {"epochs": 1, "warmup_epochs": 0},
    "sensitivity": {"batches": 1, "batch_size": 10, "budgets": [600, 2000]},
    "search": {"trials": 2, "scores": 3, "finalists": 2},
    "resources": {"runner": "inline"},
}
CASES = [(strategy, runner) for strategy in STRATEGIES for runner in RUNNERS]


def tried(config: RunConfig) -> list[tuple[Any, ...]]:
    """What came of every candidate, without the clock and without what was cut off."""
    return [
        (t.user_attrs["stage"], t.user_attrs["key"], t.state.name, t.values, t.intermediate_values)
        for t in StudyRecord.read(config.folder).trials()
        if not is_interrupted(t)
    ]


@pytest.fixture(scope="module")
def whole() -> dict[str, list[tuple[Any, ...]]]:
    """What came of each strategy's search that was not interrupted, in this process."""
    return {}


@pytest.mark.parametrize(("strategy", "runner"), CASES)
def test_a_search_ends_and_goes_on_after_an_interruption(
    make: Make,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    whole: dict[str, list[tuple[Any, ...]]],
    strategy: str,
    runner: str,
) -> None:
    """With the numbers that it would have had, whichever runner does what is left."""
    if strategy not in whole:
        config = make(name="whole", strategy=strategy, **FEW)
        assert search(config) is not None
        whole[strategy] = tried(config)
        assert {state for _, _, state, *_ in whole[strategy]} <= {"COMPLETE", "PRUNED"}

    opened: list[Proposal] = []

    def end_at_the_second(bench: Workbench, proposal: Proposal) -> Work:
        if proposal.entry is not None:  # a trial
            opened.append(proposal)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return open_work(bench, proposal)

    cut = make(name="cut", strategy=strategy, **FEW)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("petlas.search.runners.inline.open_work", end_at_the_second)
        search(cut)
    assert len(tried(cut)) == 1

    if runner == "ray":
        request.getfixturevalue("local_ray")
    cut = make(name="cut", strategy=strategy, **FEW | {"resources": {"runner": runner}})
    assert search(cut) is not None
    assert tried(cut) == whole[strategy]
    assert (cut.folder / "best" / "design.yaml").exists()
    assert not StudyRecord.read(cut.folder).cut_off()
    search(cut)
    assert tried(cut) == whole[strategy]


@pytest.mark.parametrize(("strategy", "runner"), CASES)
def test_a_search_is_planned(make: Make, strategy: str, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["petlas.search.plan"], "_measure", lambda bench: (0.01, 0.03, 10**9, 3072))
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
    monkeypatch.setattr(sys.modules["petlas.search.plan"], "_measure", lambda bench: (0.01, 0.03, 10**9, 3072))
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
