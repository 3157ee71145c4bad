"""What selection is worth where the truth is known: expected regret of rules at equal cost, in points.

    python benchmarks/selection/simulate.py --tasks 200 > benchmarks/selection/simulate.md

A simulated task has eight methods with means of their own, each with a best learning rate of its own that is not known
(more above it than below it is lost, and far above it a training collapses), designs with something of their own, and
images that are hard for all. A short training tells it all with a deviation, and prefers higher rates. Values are
shares of 200 images that are told right, of five folds. The spreads are of the size that public dumps of VTAB-1k show.
Regret is what the best method at its best rate has more than what was chosen. It cannot say what `auto` is worth on
images: see benchmarks/auto.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev

import numpy as np

from petlas.search.selection import Evidence, Known, Measurement, believe
from petlas.search.strategies.ladder import ladder
from petlas.search.training.fidelity import Fidelity

METHODS, EPOCHS, FOLDS, IMAGES = 8, 36, 5, 200
RATES = (0.0, 0.4, -0.4, 0.8)
"""Of the portfolio, in decades about the usual one."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Arm:
    """A candidate: its method, its rate in decades about the usual one, and what its design has of its own."""

    method: int
    rate: float
    own: float

    @property
    def key(self) -> str:
        """What it is called."""
        return f"{self.method} {self.rate:.4f} {self.own:.5f}"


@dataclass
class World:
    """A task with known truth."""

    seed: int
    walked: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = rng = np.random.default_rng(self.seed)
        self.level = rng.uniform(0.5, 0.9)
        self.methods = np.linspace(0.012, -0.012, METHODS) + rng.normal(0, 0.012, METHODS)
        self.best_rates = rng.normal(0, 0.25, METHODS)
        self.curvature = rng.choice([0.03, 0.1, 0.2])
        self.hardness = rng.normal(0, 1, (FOLDS, IMAGES))

    def truth(self, arm: Arm, epochs: int = EPOCHS) -> float:
        """The accuracy that an arm has on all images there are."""
        off = arm.rate - self.best_rates[arm.method] - 0.12 * math.log(EPOCHS / epochs, 3)
        worth = self.level + self.methods[arm.method] + arm.own - self.curvature * off**2
        return min(0.99, max(0.03, worth - (0.3 if off > 0.8 else 0.0)))

    @property
    def best(self) -> float:
        """The accuracy of the best method at its best rate."""
        return max(self.truth(Arm(m, self.best_rates[m], 0.0)) for m in range(METHODS))

    def measure(self, arm: Arm, epochs: int, fold: int) -> Measurement:
        """Images told right by one training; candidates fail on the same images."""
        thirds = round(math.log(EPOCHS / epochs, 3))
        for third in range(thirds):
            self.walked.setdefault((arm.key, third), float(self.rng.normal(0, 0.012)))
        off = sum(self.walked[arm.key, third] for third in range(thirds))
        chance = self.truth(arm, epochs) - 0.06 * thirds + off + self.rng.normal(0, 0.005)
        limit = _NORMAL.inv_cdf(min(0.99, max(0.03, chance)))
        right = limit + math.sqrt(0.65) * self.hardness[fold] + math.sqrt(0.35) * self.rng.normal(size=IMAGES) > 0
        return Measurement(float(right.mean()), IMAGES, tuple(right.tolist()))


Rank = Callable[["Run"], list[Arm]]


class Run:
    """The rungs of `auto`, with a rule that ranks."""

    def __init__(self, world: World, cost: float, rank: Rank) -> None:
        self.world, self.rows, self.arms = world, list[tuple[str, Fidelity, Measurement]](), dict[str, Arm]()
        rng = np.random.default_rng([world.seed, 1])
        first, *others = ladder(cost, EPOCHS, lambda epochs: epochs / EPOCHS, 10**6)
        varied = first.trials // 3
        opening = [(i % METHODS, RATES[i // METHODS % 4]) for i in range(first.trials - varied)]
        self.train([Arm(m, rate, float(rng.normal(0, 0.006))) for m, rate in opening], first.epochs, 0)
        parents = rank(self)[:4]
        steps = [(parents[i % len(parents)], rng.normal(0, (0.3, 0.006))) for i in range(varied)]
        self.train([Arm(p.method, p.rate + float(s[0]), p.own + float(s[1])) for p, s in steps], first.epochs, 0)
        for rung in others:
            self.train(rank(self)[: rung.trials], rung.epochs, rung.turn % FOLDS)
        self.chosen = next(arm for arm in rank(self) if arm.key in self.last)

    def train(self, arms: list[Arm], epochs: int, fold: int) -> None:
        """Measure arms; those with the most epochs can be chosen."""
        longest = self.rows[-1][1].epochs if self.rows else 0
        self.last = {arm.key for arm in arms} | (self.last if longest == epochs else set())
        for arm in arms:
            self.arms[arm.key] = arm
            self.rows.append((arm.key, Fidelity(epochs, 0, fold, FOLDS), self.world.measure(arm, epochs, fold)))


def by_belief(run: Run, pairs: bool = False) -> list[Arm]:
    """What the hierarchical model believes; perhaps of single images."""
    known = {key: Known(frozenset({str(arm.method)}), arm.rate) for key, arm in run.arms.items()}
    found = believe(Evidence.of(run.rows, EPOCHS), known, pairs)
    return sorted(run.arms.values(), key=lambda arm: -found.of(arm.key)[0])


def by_belief_in_pairs(run: Run) -> list[Arm]:
    """What it believes where it knows on which images candidates fail together."""
    return by_belief(run, pairs=True)


def by_maximum(run: Run) -> list[Arm]:
    """The highest value at the most epochs so far."""
    most = max(fidelity.epochs for _, fidelity, _ in run.rows)
    values: dict[str, list[float]] = {}
    for key, fidelity, measured in run.rows:
        if fidelity.epochs == most:
            values.setdefault(key, []).append(measured.value)
    return sorted((run.arms[key] for key in values), key=lambda arm: -fmean(values[arm.key]))


def whole(world: World, cost: float) -> Arm:
    """The highest value on 200 images of as many whole trainings of the portfolio's first as the cost pays for."""
    arms = [Arm(i % METHODS, RATES[i // METHODS % 4], 0.0) for i in range(int(cost))]
    return max(arms, key=lambda arm: world.measure(arm, EPOCHS, 0).value)


def grid(world: World, cost: float) -> Arm:
    """The highest value on 200 images of all methods at three rates, with equal epochs of that cost in all."""
    arms = [Arm(method, rate, 0.0) for method in range(METHODS) for rate in (-0.5, 0.0, 0.5)]
    epochs = min(EPOCHS, max(1, int(cost * EPOCHS / len(arms))))
    return max(arms, key=lambda arm: world.measure(arm, epochs, 0).value)


RULES: dict[str, Callable[[World, float], Arm]] = {
    "the portfolio's first, untried": lambda world, cost: Arm(0, 0.0, 0.0),
    "whole trainings of the first, maximum on 200 images": whole,
    "8 methods at 3 rates, equal epochs, maximum on 200 images": grid,
    "the rungs of auto, maximum of the last": lambda world, cost: Run(world, cost, by_maximum).chosen,
    "the rungs of auto, by belief": lambda world, cost: Run(world, cost, by_belief).chosen,
    "the same, candidates compared image by image": lambda world, cost: Run(world, cost, by_belief_in_pairs).chosen,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--costs", type=float, nargs="*", default=[2.0, 6.0])
    args = parser.parse_args()
    print(f"Expected regret in points, mean and standard error over {args.tasks} simulated tasks.\n")
    print("| rule | " + " | ".join(f"{cost:g} R" for cost in args.costs) + " |\n|---|" + "---|" * len(args.costs))
    regret: dict[str, list[list[float]]] = {}
    for name, rule in RULES.items():
        regret[name] = [
            [100 * (world.best - world.truth(rule(world, cost))) for world in map(World, range(args.tasks))]
            for cost in args.costs
        ]
        print(f"| {name} | " + " | ".join(map(spread, regret[name])) + " |", flush=True)
    *_, alone, pairs = regret.values()
    told = [spread([b - a for a, b in zip(*both, strict=True)]) for both in zip(alone, pairs, strict=True)]
    print(f"\nThe last row less the one above it, task by task: {', '.join(told)}.")


def spread(values: list[float]) -> str:
    """The mean, and its standard error."""
    return f"{fmean(values):.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
