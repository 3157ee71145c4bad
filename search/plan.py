"""What a search would cost, before it starts: counted in R, the price of one ordinary training run, and measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from petlas.search.config import RunConfig
from petlas.search.cost_model import LIMITS, cost_model, kept_shares, measured_costs
from petlas.search.objectives import check_metric
from petlas.search.runners import check_address, choose_runner, on_cluster, rooms
from petlas.search.runners.place import elsewhere
from petlas.search.sensitivity.report import PARTS
from petlas.search.stages.costs import CostsStage
from petlas.search.stages.doing import do_stages
from petlas.search.stages.measure import MeasureStage, measure
from petlas.search.strategies import get_strategy
from petlas.search.strategies.base import Prices, StageCost, check_folds, needs_sensitivity
from petlas.search.strategies.baselines import baselines
from petlas.search.workbench import Workbench


@dataclass(frozen=True)
class Plan:
    """What a search would cost at most.

    Args:
        designs: How many the space has, before any pruning.
        params: Trainable parameters of the smallest and the largest design, and the budget.
        flops: Operations of the backbone's forward pass on one image.
        steps: Of the smallest and the largest design, and the budget: operations for an image of a training step, its
            time and its memory.
        R_seconds: One training run at full epochs, measured on this machine, or on the cluster that the run names.
        stages: What happens one after the other.
        seconds: All of it, with as many workers as there are; `search.seconds` bounds it.
        disk: Bytes at most: decoded images, activations below the lowest placement, and checkpoints.
        gap: Why the backbone does not run in parts, so that no activations are kept; None where it does.
    """

    designs: int
    params: dict[str, int | None]
    flops: int
    steps: dict[str, dict[str, float | None]]
    R_seconds: float
    stages: list[StageCost]
    seconds: float
    disk: int
    gap: str | None


def plan(config: RunConfig) -> Plan:
    """What the search of a configuration would cost at most. Trials that halving stops early cost less.

    Raises:
        UserError: As the search itself would.
    """
    check_address(config)
    bench = Workbench(config)
    bench.check_space()
    check_metric(bench.objective, bench.task)
    check_folds(get_strategy(config.strategy), bench)
    there = _measure_there(bench) if elsewhere(config) else None
    bench.space.check_budget(bench.budget)
    images = {name: len(view) for name, view in bench.task.views.items()}
    forward, step, flops, pixels = there or measure(bench)
    prices = Prices(bench, step, forward, images, workers(config))
    stages = [cost for cost in _costs(prices) if cost.trials]
    largest = bench.cost(bench.space.largest)
    return Plan(
        designs=bench.space.count(),
        params={"smallest": bench.cost(bench.space.smallest), "largest": largest, "budget": config.budget.params},
        flops=flops,
        steps=_steps(bench),
        R_seconds=round(prices.one, 1),
        stages=stages,
        seconds=round(_seconds_in_all(stages, prices.one, config.search.seconds), 1),
        disk=pixels * (images["trainval"] + images["test"]) + _kept(bench, images["trainval"]) + 12 * largest,
        gap=bench.shape.gap,
    )


def _kept(bench: Workbench, images: int) -> int:
    """Bytes of the activations that are kept for training, at most: of each block, and within `resources.cache_gb`."""
    if bench.shape.gap is not None:
        return 0
    blocks = bench.shape.blocks
    numbers = [(block.prefix_tokens + math.prod(block.grid)) * block.width for block in blocks]
    whole = 4 * (numbers[0] + sum(numbers)) * images  # what enters the first block, and what leaves each
    return min(whole, int(bench.config.resources.cache_gb * 2**30))


def _steps(bench: Workbench) -> dict[str, dict[str, float | None]]:
    """What training steps cost: by the cost model where the budget or a cluster wants it, else as measured here."""
    most = bench.config.budget.model_dump()
    costs = bench.costs if bench.budget.further or elsewhere(bench.config) else measured_costs(bench)
    return {
        name: {
            "smallest": round(cost(bench.space.smallest), 6),
            "largest": round(cost(bench.space.largest), 6),
            "budget": most[name],
        }
        for name, cost in ((name, pick(costs)) for name, pick in LIMITS.items())
    }


def workers(config: RunConfig) -> int:
    """How many trials run at once on this machine."""
    if choose_runner(config) == "inline":
        return 1
    return max(1, min(rooms(config), config.resources.concurrent or rooms(config)))


def _at_once(config: RunConfig) -> str:
    """How many trials run at once, as far as that is known: of a cluster it is not before it is asked."""
    if on_cluster(config):
        return f"up to {config.resources.concurrent}" if config.resources.concurrent else "as many as there is room for"
    return str(workers(config))


def _costs(prices: Prices) -> Iterator[StageCost]:
    """The stages of the run's strategy, with what comes before and behind them."""
    bench = prices.bench
    config, images, strategy = bench.config, prices.images, get_strategy(bench.config.strategy)
    if needs_sensitivity(strategy, config):
        looked_at = min(images["train"], config.sensitivity.batches * config.sensitivity.batch_size)
        yield prices.cost("sensitivity", 1, 1.5 * looked_at * prices.step, alone=True)  # gradients of all weights
    known = len(PARTS) if config.search.seed_designs == "sensitivity" else 0
    known += (
        len(baselines(bench.shape, bench.budget.limit, bench.cost, bench.budget.further))
        if config.search.baselines
        else 0
    )
    yield from strategy.costs(prices, known)
    if config.protocol.folds and not strategy.compares_on_folds:
        folds = config.protocol.finalists * bench.folds * config.protocol.repeats
        share = (bench.folds - 1) / bench.folds * images["trainval"]
        yield prices.cost("folds", folds, folds * config.train.epochs * share * prices.step)
    seeds = config.protocol.retrain_seeds
    one = config.train.epochs * images["trainval"] * prices.step + images["test"] * prices.forward
    yield prices.cost("retrain", seeds, seeds * one)


def search_costs(bench: Workbench) -> list[StageCost]:
    """The stages of a search, each at what it costs at most, without measuring: a step is three forward passes.

    Args:
        bench: The run's workbench.
    """
    images = {name: len(view) for name, view in bench.task.views.items()}
    prices = Prices(bench, 3.0, 1.0, images, workers(bench.config))
    return [cost for cost in _costs(prices) if cost.trials and cost.stage != "retrain"]


def outline(bench: Workbench) -> str:
    """A search's cost in one line, without measuring."""
    config, stages = bench.config, search_costs(bench)
    images = {name: len(view) for name, view in bench.task.views.items()}
    parts = ", ".join(f"{cost.trials} {cost.stage}" if cost.trials > 1 else cost.stage for cost in stages)
    limit = f", no new trial after {config.search.seconds:g} s" if config.search.seconds else ""
    return (
        f"at most {parts}: {sum(cost.R for cost in stages):.1f} R, {_at_once(config)} at a time{limit} "
        f"(1 R: {config.train.epochs} epochs of {images['train']} images; petlas plan measures how long)"
    )


def _seconds_in_all(stages: Sequence[StageCost], one: float, limit: float | None) -> float:
    """Seconds of the stages with their workers; after the limit only trials that run come to their end."""
    search = sum(cost.seconds / cost.workers for cost in stages if cost.stage != "retrain")
    after = sum(cost.seconds / cost.workers for cost in stages if cost.stage == "retrain")
    return (search if limit is None else min(search, limit + one)) + after


def _measure_there(bench: Workbench) -> tuple[float, float, int, int]:
    """What passes and the steps of designs take on the cluster where the run's work is done."""
    shares, stage = kept_shares(bench), MeasureStage(Workbench(bench.config))
    costs = CostsStage(Workbench(bench.config))
    do_stages([stage] if shares else [stage, costs], jobs=2)
    bench.costs = cost_model(bench, shares or costs.found())
    return stage.found()
