"""Spaces: the candidates that may be chosen, and how they are drawn, varied and suggested within a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from petlas.petl.design import Design
from petlas.spaces.budget import Budget
from petlas.spaces.candidate import Candidate
from petlas.spaces.check import check_space
from petlas.spaces.design_space import DesignSpace, check_names
from petlas.spaces.dimension import DepthRule, Dimension
from petlas.spaces.draw import list_designs, sample_design, sample_design_by_cost
from petlas.spaces.errors import SpaceError
from petlas.spaces.places import Stages, parse_blocks, sizes_at
from petlas.spaces.settings import Setting, parse_settings
from petlas.spaces.suggest import suggest_design
from petlas.spaces.vary import CrossoverUnit, cross_designs, fit_design, mutate_design

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

_MOVES = 24  # Mutations of a proposal, ever bolder, before the space is searched in order.


@dataclass(frozen=True)
class Space(DesignSpace):
    """The candidates that may be chosen: a design of its dimensions and rules, and a value of each setting.

    A space without settings has designs alone: each is a candidate without settings.

    Args:
        dimensions: The sizes to choose.
        rules: The depth rules; each needs a method whose dimensions can all be absent.
        backbone: The timm name that every design of this space carries, if any.
        settings: The settings to choose.

    Raises:
        SpaceError: When names repeat, or a rule does not fit its method's dimensions.
    """

    settings: tuple[Setting, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names([choice.name for choice in (*self.variables, *self.settings)])

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        depth: int,
        *,
        backbone: str | None = None,
        known_methods: Collection[str] | None = None,
        known_settings: Collection[str] | None = None,
        stages: Stages = (),
    ) -> Space:
        """The space of plain data, as its YAML reads.

        Args:
            data: A mapping with `methods` and, optionally, `depth` and `settings`.
            depth: The backbone's number of blocks.
            backbone: The timm name for the designs to carry.
            known_methods: The methods there are; None accepts every name.
            known_settings: The settings there are; None accepts every name.
            stages: The backbone's: blocks and width of each.

        Raises:
            SpaceError: Listing every fault of the structure.
        """
        faults = check_space(data, known_methods, known_settings, depth=depth, stages=stages)
        if faults:
            raise SpaceError("the space breaks the rules:\n" + "\n".join(f"  {fault}" for fault in faults))
        dimensions, rules, depths = [], [], data.get("depth") or ()
        for method, spec in data["methods"].items():
            sizes, options = tuple(spec.get("sizes", (0, 1))), tuple(sorted(spec.get("options", {}).items()))
            blocks = parse_blocks(spec["blocks"], depth, stages)
            dimensions += [
                Dimension(method, block, sizes_at(sizes, block, stages), options, "sizes" in spec) for block in blocks
            ]
            mine = depths.get(method) if isinstance(depths, Mapping) else depths
            if mine and None not in blocks:
                rules.append(DepthRule(method, tuple(mine)))
        return cls(tuple(dimensions), tuple(rules), backbone, parse_settings(data.get("settings") or {}))

    # Candidates, and the parameters of a trial that name them

    def candidate(self, chosen: Candidate | Design) -> Candidate:
        """The candidate itself, or that of a design where the space has no settings.

        Raises:
            SpaceError: When its settings are not the space's; the design is not looked at.
        """
        candidate = chosen if isinstance(chosen, Candidate) else Candidate(chosen)
        values = dict(candidate.settings)
        if values.keys() != {setting.name for setting in self.settings}:
            known = ", ".join(setting.name for setting in self.settings) or "none"
            raise SpaceError(f"the space has the settings {known}, got {', '.join(values) or 'none'}")
        for setting in self.settings:
            if values[setting.name] not in setting:
                allowed = setting.options or "from {} to {}".format(*setting.ends)
                raise SpaceError(f"{setting.name} is {values[setting.name]}, but the space allows {allowed}")
        return candidate

    def __contains__(self, chosen: object) -> bool:
        """Whether the candidate may be chosen; of a design, whether it may with some settings."""
        try:
            return super().__contains__(self.candidate(chosen).design if isinstance(chosen, Candidate) else chosen)
        except SpaceError:
            return False

    @property
    def finite(self) -> bool:
        """Whether the candidates can be counted: no setting has a continuous range."""
        return all(setting.options is not None for setting in self.settings)

    def distributions(self) -> dict[str, tuple[int, int] | tuple[float, float]]:
        """The full range of each parameter of a trial, ends included, without the budget; fractions for a `Range`."""
        sizes = {variable.name: (0, variable.high) for variable in self.variables}
        return sizes | {setting.name: setting.ends for setting in self.settings}

    def params(self, chosen: Candidate | Design) -> dict[str, int | float]:
        """The parameters of a trial that give this candidate: the inverse of `suggest`, for enqueuing.

        Args:
            chosen: A candidate; or a design, whose parameters leave the settings open.

        Raises:
            SpaceError: When it is not in the space.
        """
        design = chosen if isinstance(chosen, Design) else self.candidate(chosen).design
        params: dict[str, int | float] = dict(
            zip((variable.name for variable in self.variables), self.point(design), strict=True)
        )
        values = {} if isinstance(chosen, Design) else dict(chosen.settings)
        return params | {s.name: s.parameter(values[s.name]) for s in self.settings if s.name in values}

    def of_params(self, params: Mapping[str, int | float]) -> Candidate:
        """The candidate of a trial's parameters, clipped to the space; those that leave no choice can be missing."""
        point = self.settle([int(params.get(variable.name, 0)) for variable in self.variables])
        return self._of(self.at(point), lambda setting: setting.value(params.get(setting.name, setting.ends[0])))

    def _of(self, design: Design, choose: Callable[[Setting], float]) -> Candidate:
        return Candidate(design, tuple((setting.name, choose(setting)) for setting in self.settings))

    # Drawing

    def sample(self, rng: np.random.Generator, budget: Budget) -> Candidate:
        """A random candidate within the budget: see `sample_design`; settings are drawn uniformly.

        Args:
            rng: The source of randomness.
            budget: The hard budget.

        Raises:
            SpaceError: When no design fits the budget.
        """
        return self._of(sample_design(self, rng, budget), lambda setting: setting.draw(rng))

    def sample_by_cost(self, rng: np.random.Generator, budget: Budget) -> Design:
        """A random design whose cost is spread evenly: see `sample_design_by_cost`.

        Args:
            rng: The source of randomness.
            budget: The hard budget, with a cost.

        Raises:
            SpaceError: When no design fits the budget, or the budget has no cost.
        """
        return sample_design_by_cost(self, rng, budget)

    def designs(self, budget: Budget, near: Design | None = None) -> Iterator[Design]:
        """Every design within the budget, once; each after a bounded number of cost calls, however large the space.

        Args:
            budget: The hard budget.
            near: A design of the space whose choices come first; None starts at the smallest design.

        Raises:
            SpaceError: When no design fits the budget.
        """
        return list_designs(self, budget, near)

    def candidates(self, budget: Budget, near: Candidate | None = None) -> Iterator[Candidate]:
        """Every candidate within the budget, once.

        Args:
            budget: The hard budget.
            near: A candidate of the space whose choices come first; None starts at the smallest design.

        Raises:
            SpaceError: When no design fits the budget, or there is no end to the candidates.
        """
        options = [setting.options for setting in self.settings]
        if None in options:
            raise SpaceError("the candidates of a space with a continuous setting cannot be listed; list its designs")
        values = [*product(*filter(None, options))]
        first = None
        if near is not None:
            first, chosen = near.design, dict(near.settings)
            values.sort(key=lambda given: sum(v != chosen[s.name] for s, v in zip(self.settings, given, strict=True)))
        for design in list_designs(self, budget, first):
            for given in values:
                yield Candidate(design, tuple(zip((s.name for s in self.settings), given, strict=True)))

    # Varying

    def mutate(
        self,
        chosen: Candidate | Design,
        rng: np.random.Generator,
        budget: Budget,
        *,
        probability: float = 0.2,
        depth_probability: float | None = None,
        late: bool = False,
        least: int = 0,
    ) -> Candidate:
        """Another candidate near the given one, within the budget: see `mutate_design`.

        Each setting moves with the probability of a size: a log-normal step in its range, or another of its choices.
        The result differs from the given candidate whenever the space has another one within the budget.

        Args:
            chosen: A candidate of the space.
            rng: The source of randomness.
            budget: The hard budget.
            probability: The probability that a size or a setting moves.
            depth_probability: The probability that a depth moves (NOAH: 0.4); None is the same probability.
            late: Whether a block is drawn before which no size moves.
            least: What the design is to cost at least, as far as steps within the budget lead there.

        Raises:
            SpaceError: When the candidate is not in the space, or no design fits the budget.
        """
        start = self.candidate(chosen)
        design = mutate_design(
            self,
            start.design,
            rng,
            budget,
            probability=probability,
            depth_probability=depth_probability,
            late=late,
            least=least,
        )
        movable = [setting.name for setting in self.settings if setting.options is None or len(setting.options) > 1]
        moved = {name for name in movable if rng.random() < probability}
        if movable and not moved and self.point(design) == self.point(start.design):
            moved = {movable[rng.integers(len(movable))]}
        old = dict(start.settings)
        return self._of(design, lambda s: s.step(old[s.name], rng) if s.name in moved else old[s.name])

    def crossover(
        self,
        a: Candidate | Design,
        b: Candidate | Design,
        rng: np.random.Generator,
        budget: Budget,
        *,
        by: CrossoverUnit = "dimension",
        least: int = 0,
    ) -> Candidate:
        """A child of two candidates, within the budget: see `cross_designs`; each setting is that of a parent.

        Args:
            a: A candidate of the space.
            b: A candidate of the space.
            rng: The source of randomness.
            budget: The hard budget.
            by: What of the design is inherited from one parent as a whole: `dimension`, `method` or `block`.
            least: What the design is to cost at least, as far as steps within the budget lead there.

        Raises:
            SpaceError: When a parent is not in the space, `by` is unknown, or no design fits the budget.
        """
        first, second = self.candidate(a), self.candidate(b)
        design = cross_designs(self, first.design, second.design, rng, budget, by=by, least=least)
        values = dict(first.settings), dict(second.settings)
        return self._of(design, lambda setting: values[rng.integers(2)][setting.name])

    def project(
        self,
        params: Mapping[str, int | float],
        rng: np.random.Generator,
        budget: Budget,
        avoid: Collection[str] = (),
    ) -> Candidate | None:
        """The feasible candidate next to a proposal that was not seen before.

        The proposal is clipped to the space and its depth rules and shrunk into the budget; if it was seen, it is
        mutated ever more boldly, and at last the candidates within the budget are gone through from the nearest on.

        Args:
            params: Parameters of a trial; missing ones are drawn at random, others than the space's are ignored.
            rng: The source of randomness.
            budget: The hard budget.
            avoid: Keys of the candidates that were seen.

        Returns:
            A candidate within the budget whose key is not to be avoided; None when there is none left.

        Raises:
            SpaceError: When no design fits the budget at all.
        """
        start = self._of(
            fit_design(self, params, rng, budget),
            lambda setting: setting.value(params[setting.name]) if setting.name in params else setting.draw(rng),
        )
        if start.key not in avoid:
            return start
        for move in range(_MOVES):
            mutant = self.mutate(start, rng, budget, probability=0.5 * move / _MOVES)
            if mutant.key not in avoid:
                return mutant
        if not self.finite:
            return self._of(start.design, lambda setting: setting.draw(rng))
        return next((other for other in self.candidates(budget, start) if other.key not in avoid), None)

    # Suggesting

    def suggest(self, trial: BaseTrial, budget: Budget) -> Candidate:
        """The candidate that an Optuna trial chooses, within the budget whatever the sampler: see `suggest_design`.

        Args:
            trial: A trial, or a `FixedTrial` of `params`.
            budget: The hard budget.

        Raises:
            SpaceError: When no design fits the budget, or a fixed parameter of the trial does not.
        """
        return self._of(suggest_design(self, trial, budget), lambda setting: setting.suggest(trial))
