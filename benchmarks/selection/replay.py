"""Which part of `auto` is worth what: searches replayed in the recorded runs, one task left out at a time.

    PYTHONPATH=benchmarks/portfolio python benchmarks/selection/replay.py > benchmarks/selection/replay.md

The truth of a task on a backbone is what was recorded there (benchmarks/portfolio/{results,dinov2}.jsonl), drawn
towards the mean over the backbone's tasks by the part of the differences that its test images' noise explains. What is
known before a search (the order of the portfolio and what is expected of each recipe) is made of the other nine tasks
on the same backbone, as `auto` has it where a backbone was recorded, or by --knows on all of them alike, or on the
others alone, as where it was not. What is measured has the noise of as many images as a fold of the task has, on which
candidates fail together, and short trainings deviate and flatter high rates as those did that were recorded with a
third of the steps. What changed images are worth is what was recorded of one recipe on the backbone (augmented.md), for
all methods alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import augmented
import choose
import numpy as np

from petlas.search.selection import Evidence, Known, Measurement, believe
from petlas.search.strategies.expected import Recorded
from petlas.search.training.fidelity import Fidelity

PORTFOLIO = Path(__file__).parents[1] / "portfolio"
RESULTS = PORTFOLIO / "results.jsonl"
EPOCHS, FOLDS = 9, 5
IMAGES = {"emoji_group": 1000, "mnist": 1000, "dsprites_loc": 1000, "digits": 1000}
"""Of train and val; the drawn tasks have 400."""
TESTED = {"emoji_group": 906, "mnist": 1000, "dsprites_loc": 1000, "digits": 540}
"""Images of the test split; the drawn tasks have 400."""
BEST = math.log10(3.0)
"""The factor of the run's rate that is best on the mean, in decades."""
CURVE = 0.07
"""What a rate costs that is ten times beyond the recorded ones."""
DEVIATIONS = (0.007, 0.013, 0.009, 0.044, 0.033, 0.063, 0.021, 0.025, 0.028, 0.021)
"""Standard deviations of what a training of a third of the epochs tells, of recorded tasks (spreads.md); half of the
variance is of the methods, half the candidate's own."""
FLATTERED, DRIFT, TURN = 0.047, 0.064, 0.03
"""By how much such a training flatters ten times the rate: mean and standard deviation over tasks, and (guessed)
from one third to the next."""
PAIRED = 0.65
"""The part of the noise of images that all candidates share."""
CHANGES = ("shift", "hflip")
_NORMAL = NormalDist()
Methods = tuple[tuple[str, float], ...]
Place = choose.Place


@dataclass(frozen=True)
class Arm:
    """A candidate: methods with their shares, its rate in decades from the run's, what it has of its own.

    Args:
        methods: With their shares.
        rate: The decimal logarithm of its factor.
        own: What it is worth of its own.
        drawn: By what its images are changed at random, such as `shift`.
    """

    methods: Methods
    rate: float
    own: float = 0.0
    drawn: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """What it is called."""
        return f"{self.methods} {self.rate:.4f} {self.own:.5f} {sorted(self.drawn)}"

    @property
    def names(self) -> frozenset[str]:
        """Of its methods."""
        return frozenset(name for name, _ in self.methods)

    @classmethod
    def of(cls, name: str) -> Arm:
        """Of a recipe's JSON."""
        recipe = json.loads(name)
        return cls(tuple(recipe["methods"].items()), math.log10(recipe["settings"]["lr"]))


Gains = dict[tuple[str, frozenset[str]], float]
"""For each task what images are worth that are changed at random, beside images as they are."""
MINI = "vit_mini_patch16_64"


def changed(method: str, *names: str) -> Gains:
    """Of recorded runs of a method."""
    found = {(task, changed): value / 100 for (task, changed), value in augmented.read(method, *names).items()}
    return {(task, changed): value - found[task, frozenset()] for (task, changed), value in found.items()}


def gains(backbone: str, share: float = 1.0) -> tuple[Gains, Gains]:
    """What changed images are worth by a whole training, and by one of a third of its steps.

    Args:
        backbone: On which; on another than the mini one short trainings tell a third of what is gained, and of what is
            lost all.
        share: Of what they gain.
    """
    if backbone == MINI:
        whole = changed("convpass", "results.jsonl", "augmented-8000.jsonl")
        short = changed("convpass", "short.jsonl", "augmented-2400.jsonl")
    else:
        whole = changed("lora", "dinov2.jsonl")
        short = {place: value / 3 if value > 0 else value for place, value in whole.items()}
    less = ({place: share * value if value > 0 else value for place, value in own.items()} for own in (whole, short))
    return next(less), next(less)


class Truth:
    """What candidates are worth at a place.

    Args:
        place: One of the table's.
        table: Of one backbone.
        gains: What changed images are worth there.
    """

    def __init__(self, place: Place, table: choose.Table, gains: tuple[Gains, Gains]) -> None:
        self.task, self._gains = place[1], gains
        own, names = table[place], [name for name in choose.common(table) if "lr.vpt" not in name]
        usual = [name for name in names if json.loads(name)["methods"]]
        level = {other: fmean(row[name] for name in usual) for other, row in table.items()}
        mean = {name: fmean(row[name] - level[other] for other, row in table.items()) for name in names}
        rest = {name: own[name] - level[place] - mean[name] for name in names}
        noise = PAIRED_LEFT * fmean(own[name] * (1 - own[name]) for name in usual) / TESTED.get(self.task, 400)
        real = max(0.1, 1 - noise / fmean(rest[name] ** 2 for name in usual))
        worths: dict[frozenset[str], dict[float, float]] = {}
        self.arms = [Arm.of(name) for name in names]
        """What was recorded."""
        for name, arm in zip(names, self.arms, strict=True):
            worths.setdefault(arm.names, {})[10**arm.rate] = level[place] + mean[name] + real * rest[name]
        self._recorded = Recorded(worths, CURVE)

    def __call__(self, arm: Arm, more: float = 0.0, thirds: int = 0) -> float:
        """The accuracy of an arm.

        Args:
            arm: The candidate.
            more: By how much higher rates are preferred.
            thirds: How often its steps were divided by three.
        """
        long, brief = (known[self.task, arm.drawn] for known in self._gains)
        value = self._recorded.worth(arm.names, 10**arm.rate)
        assert value is not None
        value += arm.own + more * (arm.rate - BEST if arm.methods else 0.0) + long + thirds * (brief - long)
        return min(0.99, max(0.03, value))

    @property
    def best(self) -> float:
        """The accuracy of the best recorded methods and rates, with the best images."""
        changes = [changed for task, changed in self._gains[0] if task == self.task]
        return max(self(replace(arm, drawn=c)) for arm in self.arms for c in changes)


PAIRED_LEFT = 1 - PAIRED


@dataclass
class World:
    """A search's surroundings: a task, the images of its folds, and what other tasks say."""

    truth: Truth
    others: Frozen
    seed: int
    walked: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, len(self.truth.task), sum(map(ord, self.truth.task))])
        self.images = IMAGES.get(self.truth.task, 400) // FOLDS
        self.hardness = self.rng.normal(0, 1, (FOLDS, self.images))
        drift = self.rng.normal(FLATTERED, DRIFT)
        self.drift, self.deviation = self.rng.normal(drift, TURN, 3).tolist(), float(self.rng.choice(DEVIATIONS))

    def measure(self, arm: Arm, epochs: int, fold: int) -> Measurement:
        """Images told right by one training; candidates fail on the same images."""
        thirds = round(math.log(EPOCHS / epochs, 3))
        off = 0.0
        for third, name in itertools.product(range(thirds), (arm.key, *arm.names)):
            own = self.deviation * math.sqrt(0.5 if name == arm.key else 0.5 / len(arm.names))
            off += self.walked.setdefault((name, third), float(self.rng.normal(0, own)))
        chance = self.truth(arm, sum(self.drift[:thirds]), thirds) - 0.06 * thirds + off + self.rng.normal(0, 0.007)
        limit = _NORMAL.inv_cdf(min(0.99, max(0.03, chance)))
        own = self.rng.normal(size=self.images)
        right = limit + math.sqrt(PAIRED) * self.hardness[fold] + math.sqrt(1 - PAIRED) * own > 0
        return Measurement(float(right.mean()), self.images)

    def expected(self, arm: Arm) -> tuple[float, ...]:
        """What other tasks say of an arm, on each backbone."""
        found = [own.worth(arm.names, 10**arm.rate) for own in _known(self.others)]
        return tuple(value + arm.own for value in found if value is not None)

    def portfolio(self) -> list[Arm]:
        """Linear probing, and the greedy order of choose.py."""
        return [Arm.of(name) for name in _order(self.others)]


@cache
def _known(others: Frozen) -> list[Recorded]:
    return [Recorded.of(choose.expected(own), CURVE) for own in choose.backbones(others).values()]


@cache
def _order(others: Frozen) -> list[str]:
    order = [name for name in choose.greedy(others, choose.LENGTH) if "lr.vpt" not in name]
    return [choose.linear(others), *order]


class Frozen(dict[Place, Mapping[str, float]]):
    """A table that is told by its places."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))


@dataclass(frozen=True)
class Rules:
    """How a search goes about it; the defaults are those of `auto` before.

    Args:
        rungs: Epochs, fold and trainings of each rung after the first; the first has one fold and those of `first`.
        expects: Whether what other tasks say is believed beforehand.
        kin: Whether designs that share a method are alike, and a rate is worth the same for all.
        varied: The part of the first rung that is for variations of the leaders.
        draws: Whose images are changed: those of the `first` candidate in all ways, or of all in `turns`, and half of
            the variations are then crossings of candidates and ways.
    """

    first: tuple[int, int] = (1, 18)
    rungs: tuple[tuple[int, int, int], ...] = ((3, 1, 6), (9, 2, 2))
    expects: bool = False
    kin: bool = False
    varied: float = 1 / 3
    draws: str = ""


def search(world: World, rules: Rules) -> Arm:
    """The choice of the ladder."""
    rows: list[tuple[str, Fidelity, Measurement]] = []
    arms: dict[str, Arm] = {}

    def train(some: Sequence[Arm], epochs: int, fold: int) -> None:
        for arm in some:
            arms[arm.key] = arm
            rows.append((arm.key, Fidelity(epochs, 0, fold, FOLDS), world.measure(arm, epochs, fold)))

    def known(arm: Arm) -> Known:
        names = arm.names if rules.kin else frozenset({"+".join(sorted(arm.names))})
        settings = {name: float(name in arm.drawn) for name in CHANGES} if rules.draws else {}
        return Known(names, arm.rate if rules.kin else 0.0, world.expected(arm) if rules.expects else (), settings)

    def ranked(others: Sequence[Arm] = ()) -> list[Arm]:
        """Of the measured ones, or of others, the best first."""
        untried = {arm.key: known(arm) for arm in others}
        found = believe(Evidence.of(rows, EPOCHS), {arm.key: known(arm) for arm in arms.values()}, others=untried)
        return sorted(others or arms.values(), key=lambda arm: -found.of(arm.key)[0])

    rng = np.random.default_rng([world.seed, 1])
    epochs, count = rules.first
    varied, opening = int(count * rules.varied), world.portfolio()
    if rules.draws == "first":
        opening[2:2] = [replace(opening[1], drawn=frozenset(own)) for own in (CHANGES[:1], CHANGES, CHANGES[1:])]
    if rules.draws == "turns":
        opening[1:] = [replace(arm, drawn=frozenset(TURNS[i % 4])) for i, arm in enumerate(opening[1:])]
    opening = opening[: count - varied]
    train(opening, epochs, 0)
    if varied:
        parents, children = ranked()[:4], list[Arm]()
        if rules.draws == "turns":
            crossed = [replace(arm, drawn=frozenset(own)) for arm in opening for own in TURNS]
            crossed = ranked([arm for arm in crossed if arm.key not in arms])
            children += crossed[: (varied + 1) // 2]
        for i in range(varied - len(children)):
            parent, rate, own = parents[i % len(parents)], -abs(float(rng.normal(0, 0.2))), float(rng.normal(0, 0.004))
            rate, own, drawn = (rate, 0.0, parent.drawn) if i % 8 < 4 else (0.0, own, parent.drawn)
            if rules.draws and i % 8 < 4 and (place := int(rng.integers(3))) < 2:
                rate, drawn = 0.0, parent.drawn ^ {CHANGES[place]}
            children.append(Arm(parent.methods, parent.rate + rate, parent.own + own, drawn))
        train(children, epochs, 0)
    last: set[str] = set(arms)
    for epochs, fold, count in rules.rungs:
        leaders = [arm for arm in ranked() if arm.key in last or count > len(last)][:count]
        train(leaders, epochs, fold)
        last = {arm.key for arm in leaders}
    return next(arm for arm in ranked() if arm.key in last)


def grid(world: World, epochs: int = 2) -> Arm:
    """Eight methods at a third, once and three times the run's rate, for equal epochs: the highest value on a fold."""
    kinds = dict.fromkeys(arm.methods for arm in world.truth.arms)
    kinds = [kind for kind in kinds if len(kind) < 2 and "adapter_plus" not in dict(kind)]
    arms = [Arm(kind, math.log10(factor)) for kind in kinds for factor in (0.3, 1.0, 3.0)]
    return max(arms, key=lambda arm: world.measure(arm, epochs, 0).value)


BEFORE = Rules(expects=True, kin=True)
LONGER = {"first": (3, 9), "rungs": ((9, 2, 3),)}
WHOLE = {"first": (3, 6), "rungs": ((9, 2, 4),)}
SMALL = {"first": (3, 6), "rungs": ()}
TURNS: tuple[tuple[str, ...], ...] = ((), CHANGES[:1], CHANGES, CHANGES[1:])


def by(**rules: Any) -> Callable[[World], Arm]:
    """A search by some rules, the others as before."""
    return lambda world: search(world, replace(BEFORE, **rules))


WAYS: dict[str, Callable[[World], Arm]] = {
    "the portfolio's first, untried": lambda world: world.portfolio()[1],
    "7 methods at 3 rates, 2 epochs, highest value": grid,
    "18 of 1, 6 of 3, 2 of 9 epochs, knowing nothing before": by(expects=False, kin=False),
    "the same, with what other tasks say": by(kin=False),
    "the same, with kin and rates": by(expects=False),
    "the same, with both": by(),
    "both, 9 of 3, 3 of 9": by(**LONGER),
    "both, 6 of 3, 4 of 9": by(**WHOLE),
    "both, images of the first changed in all ways": by(draws="first"),
    "the same, 9 of 3, 3 of 9": by(draws="first", **LONGER),
    "**both, images changed in turns, 9 of 3, 3 of 9: `auto`**": by(draws="turns", **LONGER),
    "the same, 6 of 3, 4 of 9": by(draws="turns", **WHOLE),
    "the same, no variations": by(draws="turns", varied=0.0, **LONGER),
    "2 R: 7 methods at 3 rates, 1 epoch, highest value": lambda world: grid(world, 1),
    "2 R: both, 9 of 1, 3 of 3": by(first=(1, 9), rungs=((3, 1, 3),)),
    "2 R: both, 6 of 3": by(**SMALL),
    "2 R: the same, images of the first changed in all ways": by(draws="first", **SMALL),
    "**2 R: the same, images changed in turns: `auto`**": by(draws="turns", **SMALL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10, help="searches of each task")
    parser.add_argument("--gain", type=float, default=1.0, help="of what changed images gain, by the recorded runs")
    parser.add_argument("--ways", type=int, nargs="*", default=range(len(WAYS)), help="which, by their place")
    parser.add_argument("--knows", choices=("same", "all", "others"), default="same", help="which backbones")
    parser.add_argument("--results", nargs="*", default=("results.jsonl", "dinov2.jsonl"))
    args = parser.parse_args()
    table = choose.read([PORTFOLIO / name for name in args.results])
    parts = choose.backbones(table)
    print(f"Lost to the best recorded, in points; mean over {len(table)} tasks of {args.draws} draws.\n")
    print("| way | " + " | ".join(f"{name} | to the first" for name in parts) + " |\n|---|" + "---|---|" * len(parts))
    worth_of_changes = {backbone: gains(backbone, args.gain) for backbone in parts}
    firsts: dict[Place, float] = {}
    for number, (name, way) in enumerate(WAYS.items()):
        if number not in args.ways and number:
            continue
        cells = []
        for backbone, own in parts.items():
            lost, above = [], []
            for place in own:
                truth = Truth(place, own, worth_of_changes[backbone])
                told = {"all": table, "same": own, "others": {p: r for p, r in table.items() if p[0] != backbone}}
                others = Frozen({p: row for p, row in told[args.knows].items() if p[1] != place[1]})
                for seed in range(args.draws if number else 1):
                    worth = truth(way(World(truth, others, seed)))
                    lost.append(100 * (truth.best - worth))
                    above.append(100 * (worth - firsts.setdefault(place, worth)))
            error = stdev(above) / math.sqrt(len(above))
            cells.append(f"{fmean(lost):.2f} | {fmean(above):+.2f} ± {error:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
