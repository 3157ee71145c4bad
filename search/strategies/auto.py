"""The strategy for whoever has no reason for another one: strong candidates first, what they teach next, and folds.

The candidates of the portfolio that the space has, linear probing among them, are trained for a short while; those that
diverge are stopped at once. The leaders are varied, in their designs and their settings. The best of all go on, on ever
more folds of train and val and for ever more epochs (successive halving; Li et al., Hyperband, 2018), and the choice is
by what is then believed of them: see `petlas.search.selection.noise`. All of it costs `search.cost` R at most, counted
in passes over images, so it is the same on every machine.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from optuna.trial import FrozenTrial

from petlas.petl import Design
from petlas.search.selection import Beliefs
from petlas.search.stages.base import Stage
from petlas.search.stages.divergence import diverges
from petlas.search.stages.rung import RungStage
from petlas.search.strategies.base import Prices, Search, StageCost, Strategy
from petlas.search.strategies.expected import expected
from petlas.search.strategies.ladder import Rung, ladder
from petlas.search.strategies.prior import prior
from petlas.search.strategies.recipes import LR, Recipe, linear, portfolio
from petlas.search.strategies.seeds import seed_costs, seed_price, seed_stages, seeds
from petlas.search.strategies.variation import distinct, unlike, vary
from petlas.search.study import FIRST_LOSS, HALVING, PORTFOLIO, REPEAT, VARIED, Entry, candidate_of, passes
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate, Choices, Range, Setting, Space

_ANCHORS = 4
"""Candidates that are trained first, so that the others' losses can be held against theirs: of unlike methods where
there are as many, or one that goes astray would be the usual."""
_PARENTS = 4
_VARIED = 1 / 3
"""The part of the short trainings that is for variations."""
_SPAN = 10.0
"""By how much rates may be above and below the run's, where the space says nothing of them."""

_CHANGES = {"shift": 0.08, "hflip": 0.5}
"""How images are changed at random, where `train.augment` is `auto` and the space does not say it. On recorded tasks it
is worth more than any choice of methods, or takes away what tells classes apart (benchmarks/portfolio/augmented.md)."""
_TURNS = ((), ("shift",), ("shift", "hflip"), ("hflip",))
"""By which of them in the portfolio: so all of it tells what each is worth, whatever the methods."""


class Auto(Strategy):
    """A portfolio, variations of its leaders, and successive halving over epochs and folds, at a price in R."""

    goes_on_with = "search.cost"
    summary = "strong candidates and variations of the leaders, halved over epochs and folds"
    compares_on_folds = True

    def stages(self, search: Search) -> Iterator[Stage]:
        """The portfolio's first and its rest, the variations, and the rungs of halving; before them what seeds need."""
        yield from seed_stages(search)
        yield from _Pipeline(search).stages()

    def deals(self, bench: Workbench) -> int:
        """As often as the rungs go round all folds: at least once."""
        return 1 + max(rung.turn for rung in _rungs(bench)) // bench.folds

    def costs(self, prices: Prices, known: int) -> Iterator[StageCost]:
        """The rungs of the ladder, each at its own price; what diverges costs less."""
        bench = prices.bench
        yield from seed_costs(prices)
        train, val = _images(bench)
        first, *others = _rungs(bench)
        varied = _varied(first.trials)
        parts = [(PORTFOLIO, first.epochs, first.trials - varied), (VARIED, first.epochs, varied)]
        for epochs, rungs in itertools.groupby(others, key=lambda rung: rung.epochs):
            parts.append((f"{HALVING}, {epochs} epochs", epochs, sum(rung.trials for rung in rungs)))
        for stage, epochs, trials in parts:
            yield prices.cost(stage, trials, trials * epochs * (train * prices.step + val * prices.forward))


def space_of(bench: Workbench) -> Space:
    """The run's space, with learning rates and changed images where neither it nor the run says anything of them.

    Args:
        bench: The run's workbench.
    """
    space, train = bench.space, bench.config.train
    further: list[Setting] = [Range(LR, train.lr / _SPAN, train.lr * _SPAN, log=True)]
    if train.augment == "auto" and not train.augments:
        further += [Choices(name, (0.0, value)) for name, value in _CHANGES.items()]
    named = {setting.name for setting in space.settings}
    return dataclasses.replace(space, settings=(*space.settings, *(s for s in further if s.name not in named)))


def _images(bench: Workbench) -> tuple[float, float]:
    """How many images each fold's models learn from, and are measured on."""
    images = len(bench.task.views["trainval"])
    return images * (1 - 1 / bench.folds), images / bench.folds


def _rungs(bench: Workbench) -> tuple[Rung, ...]:
    views, config = bench.task.views, bench.config
    one = passes(config.train.epochs, len(views["train"]), len(views["val"]))
    return ladder(
        config.search.cost - seed_price(bench),
        config.train.epochs,
        lambda epochs: passes(epochs, *_images(bench)) / one,
        config.search.trials,
    )


def _varied(trials: int) -> int:
    return math.floor(trials * _VARIED)


def _methods(candidate: Candidate) -> Collection[str]:
    return candidate.design.by_method.keys()


class _Pipeline:
    """The stages of one search. Each is a function of the trials of those before it, and of nothing else.

    Args:
        search: The search.
    """

    def __init__(self, search: Search) -> None:
        self._search, self._bench, self._record = search, search.bench, search.record
        self._space = space_of(search.bench)
        self._rungs = _rungs(search.bench)

    def stages(self) -> Iterator[Stage]:
        """All of them; what a stage needs of those before it is read when it is asked for."""
        first, *others = self._rungs
        opening = self._opening(first.trials - _varied(first.trials))
        anchors = unlike(opening, _methods, _ANCHORS)
        yield self._stage(PORTFOLIO, first, anchors, usual=())
        usual = self._record.first_losses(PORTFOLIO, {anchor.key for anchor in anchors})  # the rest may have begun
        if rest := [candidate for candidate in opening if candidate not in anchors]:
            yield self._stage(PORTFOLIO, first, rest, usual)
        if children := self._children(first.trials - len(opening)):
            yield self._stage(VARIED, first, children, usual)
        for turn, rung in enumerate(others, start=1):
            leaders = distinct(self._leaders([PORTFOLIO, VARIED], turn), rung.trials, self._space)
            yield self._stage(HALVING, rung, leaders, usual=())

    def _stage(self, name: str, rung: Rung, candidates: Iterable[Candidate], usual: Sequence[float]) -> RungStage:
        """The trainings of some candidates on a rung."""
        bench = self._bench
        repeat, fold = divmod(rung.turn, bench.folds)  # when all folds were used, they are dealt anew
        fidelity = Fidelity(rung.epochs, bench.config.seed + repeat, fold, bench.folds, repeat)
        entries = [self._entry(candidate, fidelity, name) for candidate in candidates]
        epochs = f"{rung.epochs} epoch{'s' if rung.epochs > 1 else ''}"
        opening = f"{name}: {len(entries)} trainings of {epochs}, measured on fold {fold + 1} of {bench.folds}"
        return RungStage(bench, self._record, entries, self._search.late, usual, opening, lambda: self._told(name))

    def _entry(self, candidate: Candidate, fidelity: Fidelity, stage: str) -> Entry:
        """What is tried, with what other tasks say of it."""
        lr = dict(candidate.settings)[LR] / self._bench.config.train.lr
        costs = self._bench.both_costs(candidate.design)
        known = expected(candidate.design.by_method, lr, self._bench.shape.name)
        return Entry(candidate, fidelity, stage, *costs, expected=known)

    def _told(self, name: str) -> str:
        """What is believed after a stage, and what was spent so far."""
        record, metric = self._record, self._bench.objective.metric
        limit = self._bench.config.search.cost
        spent = f"{seed_price(self._bench) + sum(map(record.cost, record.counted())):.2f} of {limit:g} R spent"
        longest, beliefs = record.evidence().partly, record.beliefs()
        ranked = [candidate for candidate in self._ranked(beliefs) if candidate.key in longest]  # else none is chosen
        if not ranked:
            return f"after {name}: no training came to its end; {spent}"
        value, error = beliefs.of(ranked[0].key)
        told = f"{metric.format(value)} ± {metric.format(error)}"
        return f"after {name}: {told} is believed of the best, {ranked[0]}; {spent}"

    # Which candidates

    def _opening(self, count: int) -> list[Candidate]:
        """Linear probing, the prior, the portfolio, and what else the space has, each once, by promise.

        The portfolio's images are changed in turns.
        """
        space, budget = self._space, self._bench.budget
        usual = {setting.name: self._bench.config.train.usual(setting.name) for setting in space.settings}
        found = [Candidate(Design((), self._bench.shape.name), linear().candidate(space, budget, usual).settings)]
        found += self._fitting(self._prior(), usual)
        strong = self._fitting(portfolio(space, self._bench.shape.name), usual)
        found += [one.with_settings(way) for one, way in zip(strong, itertools.cycle(self._ways()), strict=False)]
        settings = tuple((setting.name, setting.nearest(usual[setting.name])) for setting in space.settings)
        asked = [Candidate(design, settings) for design in seeds(self._search)]
        place = max(1, min(_ANCHORS, count - len(asked)))  # in a small search first: they were paid for
        found[place:place] = asked
        return list({candidate.key: candidate for candidate in found}.values())[:count]

    def _fitting(self, recipes: Iterable[Recipe], usual: Mapping[str, float]) -> Iterator[Candidate]:
        """The candidates of recipes that the space has and the budget is large enough for."""
        for recipe in recipes:
            if recipe.suits(self._space):
                candidate = recipe.candidate(self._space, self._bench.budget, usual)
                if recipe.methods <= candidate.design.by_method.keys():
                    yield candidate

    def _ways(self) -> list[dict[str, float]]:
        """The ways to change images that the space has, as settings."""
        own = {setting.name: setting for setting in self._space.settings if setting.name in _CHANGES}
        ways = [{name: s.value(s.ends[name in turn]) for name, s in own.items()} for turn in _TURNS]
        return [way for place, way in enumerate(ways) if way not in ways[:place]]

    def _prior(self) -> list[Recipe]:
        """What the user's earlier runs suggest, as it was when this search began."""
        config, kept = self._bench.config, self._record.prior
        if config.search.prior is None:
            return []
        if kept is None:
            own = prior(Path(config.locate(config.search.prior)), config.folder)
            self._record.settle(kept := [recipe.to_dict() for recipe in own])
        return [Recipe.from_dict(recipe) for recipe in kept]

    def _children(self, count: int) -> list[Candidate]:
        """What of the portfolio promises most with its images changed in another way, and variations of its leaders."""
        config, tried = self._bench.config, {trial.user_attrs["key"] for trial in self._record.counted(PORTFOLIO)}
        parents = [c for c in self._leaders([PORTFOLIO], turn=1) if c in self._space][:_PARENTS]
        crossed = self._promising([parent.with_settings(way) for parent in parents for way in self._ways()], tried)
        found = crossed[: math.ceil(count / 2)]
        rng = np.random.default_rng([config.seed, crc32(b"auto")])
        avoid = tried | {candidate.key for candidate in found}
        return found + vary(parents, count - len(found), self._space, self._bench.budget, rng, avoid)

    def _promising(self, candidates: Iterable[Candidate], tried: Collection[str]) -> list[Candidate]:
        """Those that were not tried, by what is believed of them after the portfolio, the best first."""
        untried = {candidate.key: candidate for candidate in candidates if candidate.key not in tried}
        whole = Fidelity(self._bench.config.train.epochs, self._bench.config.seed)
        entries = [self._entry(candidate, whole, VARIED) for candidate in untried.values()]
        beliefs = self._record.beliefs(lambda trial: trial.user_attrs["stage"] == PORTFOLIO, entries)
        params = {entry.candidate.key: entry.params for entry in entries}
        return [untried[key] for key in beliefs.ranked(params, self._record.maximize)]

    def _leaders(self, stages: Sequence[str], turn: int) -> list[Candidate]:
        """The candidates by what was believed of them before a rung, the best first."""
        before = {(rung.epochs, *divmod(rung.turn, self._bench.folds)) for rung in self._rungs[1:turn]}
        usual = self._record.first_losses(PORTFOLIO)[:_ANCHORS]

        def counts(trial: FrozenTrial) -> bool:
            own = trial.user_attrs
            if own["stage"] in stages:  # an anchor was trained before it was known what is usual
                return not diverges(1, own.get(FIRST_LOSS, 0.0), usual)
            place = (own["of_epochs"], own.get(REPEAT, 0), own["fold"])
            return own["stage"] == HALVING and place in before

        longest = self._record.evidence(counts).partly  # whoever was left behind once stays there
        return [leader for leader in self._ranked(self._record.beliefs(counts)) if leader.key in longest]

    def _ranked(self, beliefs: Beliefs) -> list[Candidate]:
        trials = {trial.user_attrs["key"]: trial for trial in self._record.counted()}
        params = {key: trials[key].user_attrs["params"] for key in beliefs.keys}
        return [candidate_of(trials[key]) for key in beliefs.ranked(params, self._record.maximize)]
