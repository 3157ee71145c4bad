import logging
from collections.abc import Callable
from importlib import import_module

import pytest

from petlas.petl import Design, Placement
from petlas.search.cost_model import Shares, keep_shares, measure_shares
from petlas.search.runners import inline
from petlas.search.stages import costs
from petlas.search.stages.costs import costs_of_cluster
from petlas.search.timed_steps import StepCost, TimedSteps
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]
FAR = {"resources": {"runner": "ray", "address": "192.0.2.1:6379"}, "budget": {"latency_ms": 1e9}}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A cluster that is this process; of each step that is measured, whether the work of a stage asks for it."""
    found: list[bool] = []
    stages: list[Workbench] = []

    def by_stage(bench: Workbench) -> Shares:
        stages.append(bench)
        shares = measure_shares(bench)
        stages.pop()
        return shares

    def measure(steps: TimedSteps, design: Design) -> StepCost:
        found.append(bool(stages))
        return StepCost(1e9, 0.001 * (1 + len(design.placements)), 2**20)

    monkeypatch.setattr(TimedSteps, "measure", measure)
    monkeypatch.setattr(costs, "measure_shares", by_stage)
    monkeypatch.setattr(
        import_module("petlas.search.stages.doing"), "open_runner", lambda benches, **how: inline.opened(benches)
    )
    return found


def test_what_steps_cost_on_a_cluster_is_measured_there_and_once(
    bench: Bench, measured: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    work = bench(**FAR)
    costs_of_cluster([work])
    assert measured
    assert all(measured)
    assert not work.config.folder.exists()  # a plan leaves nothing
    count, latency = len(measured), work.costs.latency_ms(work.space.largest)
    assert work.budget.allows(work.space.largest)
    work.config.folder.mkdir(parents=True)
    keep_shares(work, work.costs.shares)
    again = bench(**FAR)
    costs_of_cluster([again])
    assert again.costs.latency_ms(work.space.largest) == latency
    assert len(measured) == count
    with caplog.at_level(logging.WARNING, "petlas"):
        work.costs.flops(Design.of([Placement("ssf", 2)], "vit_mini_patch16_64"))
    assert "measured on this machine, not on the cluster" in caplog.text


def test_on_this_machine_nothing_is_asked_of_a_runner(bench: Bench, measured: list[bool]) -> None:
    work = bench(budget={"latency_ms": 1e9})
    costs_of_cluster([work])
    assert not measured
    assert work.budget.allows(work.space.largest)
    assert not any(measured)
