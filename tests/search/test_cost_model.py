from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from petlas.petl import Design, Placement
from petlas.search.cost_model import FILE, LIMITS, cost_model, features, fit, keep_shares, samples, total
from petlas.search.stages.train import whole
from petlas.search.study import SEARCH, Ending, StudyRecord, candidate_of, entry_of
from petlas.search.supplying import supplies_of
from petlas.search.timed_steps import StepCost, TimedSteps
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate, SpaceError

Bench = Callable[..., Workbench]
SPACE = {
    "methods": {
        "lora": {"blocks": [0, 5], "sizes": [0, 2, 4, 8]},
        "adapter": {"blocks": [1, 5], "sizes": [0, 4, 8]},
        "vpt": {"blocks": [0, 5], "sizes": [0, 2, 4]},
    }
}


def at(*placed: tuple[str, int, int]) -> Design:
    return Design.of([Placement(*one) for one in placed], "vit_mini_patch16_64")


def true_cost(self: Any, design: Design) -> StepCost:
    """A step whose parts are known."""
    found = features(design, 6)
    flops = 10 + 9 * found["back"]
    flops += sum(2 + 0.5 * (p.size or 0) for p in design.placements if p.method != "vpt")
    flops += found.get("vpt size", 0) * 0.25 + found.get("vpt", 0)
    flops += max(
        (share for name, share in (("adapter", 1), ("lora", 3), ("vpt", 4)) if _lowest(found, name)), default=0
    )
    return StepCost(flops * 1e6, flops / 1e3, flops * 1e4)


def _lowest(found: dict[str, float], name: str) -> bool:
    return f"lowest block: {name}" in found


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Design]:
    """Steps cost what `true_cost` says; which designs were measured."""
    measured: list[Design] = []
    monkeypatch.setattr(TimedSteps, "measure", lambda self, design: measured.append(design) or true_cost(self, design))
    return measured


def test_the_depth_of_the_lowest_placement_is_a_cost() -> None:
    design = at(("lora", 4, 8), ("adapter", 5, 4))
    assert features(design, 6) == {
        "step": 1,
        "back": 1,
        "lora": 1,
        "lora size": 8,
        "adapter": 1,
        "adapter size": 4,
        "lowest block: lora": 1,
    }
    assert features(Design(()), 6) == {"step": 1, "back": 0}
    assert features(at(("vpt", 0, 4), ("vpt", 3, 2), ("vpt", 4, 2)), 6)["vpt size"] == 3 * 4 + 2 + 2 * 2


def test_a_cost_that_adds_up_is_found_to_the_digit_from_few_steps(bench: Bench, known: list[Design]) -> None:
    work = bench(space=SPACE)
    model, rng = work.costs, np.random.default_rng(0)
    assert len(set(known)) <= 1 + 4 * 3 and set(Counter(known).values()) == {3}  # rounds
    for _ in range(50):
        design = work.space.sample(rng, work.budget).design
        expected, found = true_cost(None, design), model.cost(design)
        assert found.flops == pytest.approx(expected.flops, rel=0.03)
        assert model.latency_ms(design) == pytest.approx(1000 * 256 * expected.seconds, rel=0.03)
        memory = 4 * work.shape.params + 12 * work.cost(design) + 256 * expected.bytes
        assert model.train_memory_gb(design) == pytest.approx(memory / 2**30, rel=0.03)


def test_no_cost_falls_when_a_placement_is_added_or_enlarged() -> None:
    """Whatever was measured: every operation of a space relies on it."""
    rng = np.random.default_rng(0)
    largest = at(*((name, block, 8) for name in ("lora", "adapter") for block in range(6)))
    for _ in range(20):
        noisy = [(features(d, 6), StepCost(*rng.uniform(1, 9, 3))) for d in samples(largest)]
        shares = fit(noisy)
        assert min(min(values.values()) for values in shares.values()) >= 0
        placed: dict[tuple[str, int], int] = {}
        costs = [0.0]
        for _ in range(30):
            place = (str(rng.choice(["lora", "adapter"])), int(rng.integers(6)))
            placed[place] = placed.get(place, 0) + 1
            found = features(at(*((*key, size) for key, size in placed.items())), 6)
            costs.append(total(found, shares["flops"]))
        assert all(after >= before - 1e-9 for before, after in pairwise(costs))


def test_a_method_that_the_space_does_not_have_is_measured_when_it_is_asked_for(
    bench: Bench, known: list[Design]
) -> None:
    work = bench(space=SPACE)
    work.costs.flops(at(("lora", 3, 4)))
    before = len(known)
    design = Design.of([Placement("ssf", 2)], "vit_mini_patch16_64")
    assert work.costs.flops(design) == work.costs.flops(design) == true_cost(None, design).flops
    assert known[before:] == [design]


def test_a_search_that_goes_on_counts_as_it_did(bench: Bench, known: list[Design]) -> None:
    work = bench(space=SPACE)
    cost_model(work)
    assert not work.config.folder.exists()  # a plan leaves nothing
    work.config.folder.mkdir(parents=True)
    first = cost_model(work)
    keep_shares(work, first.shares)
    assert json.loads((work.config.folder / FILE).read_text())["shares"] == first.shares
    known.clear()
    assert cost_model(work).shares == first.shares
    assert not known
    cost_model(bench(space=SPACE, train={"batch_size": 64}))
    assert known  # of another batch


def test_workers_count_by_the_figures_of_the_driver(bench: Bench, known: list[Design]) -> None:
    """Or a supernet would learn other designs than those that are scored."""
    driver = bench(space=SPACE, budget={"latency_ms": 1e9})
    cost = driver.costs.latency_ms(driver.space.largest)
    known.clear()
    worker = Workbench(driver.config, {supply.name: supply.make() for supply in supplies_of(driver, ())})
    assert worker.costs.latency_ms(driver.space.largest) == cost
    assert not known


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_hard(bench: Bench, known: list[Design], name: str) -> None:
    free = bench(space=SPACE)
    cost = LIMITS[name](free.costs)
    low, high = cost(free.space.smallest), cost(free.space.largest)
    work = bench(space=SPACE, budget={name: (low + high) / 2})
    rng = np.random.default_rng(0)
    drawn = [work.space.sample(rng, work.budget).design for _ in range(30)]
    assert max(map(cost, drawn)) <= (low + high) / 2 * (1 + 1e-9)
    assert not work.budget.allows(work.space.largest)
    tight = bench(space=SPACE, budget={name: low / 2})
    with pytest.raises(SpaceError, match=rf"no design fits budget.{name} = .*raise budget.{name}"):
        tight.space.check_budget(tight.budget)


def test_a_search_may_trade_a_cost_for_accuracy(bench: Bench, known: list[Design]) -> None:
    """Parameters stay what they are; the second value of a trial, and the front, are of the cost."""
    deep, wide = at(("lora", 0, 2)), at(("lora", 5, 8))
    work = bench(space=SPACE, search={"objectives": ["accuracy", "latency_ms"]})
    work.config.folder.mkdir(parents=True)
    record = StudyRecord.create(work.config.folder, None, work.config.search.objectives)
    for design, value in ((deep, 0.6), (wide, 0.7)):
        entry = whole(work, Candidate(design), SEARCH)
        assert (entry.params, entry.cost) == (work.cost(design), work.costs.latency_ms(design))
        record.finish(record.begin(entry, {}, {}, {}), Ending(2, value, 1.0))
    values = {candidate_of(trial).design: trial.values for trial in record.trials()}
    assert values[deep] == [0.6, work.costs.latency_ms(deep)]
    assert values[deep][1] > values[wide][1]  # deeper down, though it has a quarter of the parameters
    assert [candidate_of(trial).design for trial in record.pareto()] == [wide]
    assert [entry_of(trial).cost for trial in record.trials()] == [v[1] for v in values.values()]
    plain = bench(space=SPACE, search={"objectives": ["accuracy", "params"]})
    assert plain.both_costs(deep) == (plain.cost(deep), None)
