"""A sampler as somebody else would add it: one class, one line in `SAMPLERS`."""

from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from petlas.search.samplers.feasible import FeasibleSampler, number_of
from petlas.spaces import Budget, Candidate, Space


class Cheapest(FeasibleSampler):
    """Proposes the cheapest designs first, drawn out of so many."""

    def __init__(self, space: Space, budget: Budget, seed: int, of: int = 8) -> None:
        super().__init__(RandomSampler, space, budget, seed)
        self.of = of

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Candidate | None:
        rng, seen = self.rng(number_of(trial)), self.seen(study, trial)
        drawn = [self.space.sample(rng, self.budget) for _ in range(self.of)]
        cheapest = min(drawn, key=lambda candidate: len(candidate.design.placements))
        return self.space.project(self.space.params(cheapest), rng, self.budget, seen)
