from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial
from space_cases import NOAH, NOAH_DEPTH, Case, cases, cost, quick

from petlas.spaces import Budget, Candidate, SpaceError


@quick
@given(cases(), st.integers(0, 1000))
def test_params_are_the_inverse_of_suggest(case: Case, number: int):
    for design in case.feasible[:: max(1, len(case.feasible) // 5)]:
        trial = FixedTrial(case.space.params(design), number)
        assert case.space.suggest(trial, case.budget) == Candidate(design)
        assert trial.params == case.space.params(design)


@pytest.mark.parametrize("case", [NOAH, NOAH_DEPTH])
@pytest.mark.parametrize(
    "sampler",
    [
        lambda: RandomSampler(seed=0),
        lambda: TPESampler(seed=0, n_startup_trials=5),
        lambda: TPESampler(seed=0, n_startup_trials=5, multivariate=True),
        lambda: NSGAIISampler(seed=0, population_size=5),
    ],
)
def test_every_stock_sampler_stays_within_the_budget(case: Case, sampler: Callable[[], BaseSampler]):
    low, high = cost(case.space.smallest), cost(case.space.largest)
    budget = Budget(low + (high - low) // 4, cost)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    for _ in range(15):
        trial = study.ask()
        candidate = case.space.suggest(trial, budget)
        design = candidate.design
        assert candidate in case.space
        assert design in case.space
        assert budget.allows(design)
        assert trial.params == case.space.params(design)
        study.tell(trial, [len(design.placements), cost(design)])


def test_an_enqueued_design_is_what_the_trial_gets():
    design = NOAH_DEPTH.space.sample(np.random.default_rng(0), Budget()).design
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    study.enqueue_trial(NOAH_DEPTH.space.params(design))
    assert NOAH_DEPTH.space.suggest(study.ask(), Budget(cost(design), cost)) == Candidate(design)


@pytest.mark.filterwarnings("ignore:.*out of.*range")
def test_a_fixed_parameter_beyond_the_budget_is_refused():
    params = NOAH.space.params(NOAH.space.largest)
    with pytest.raises(SpaceError, match=r"=3 does not fit the space and the budget here; choose from 0 to"):
        NOAH.space.suggest(FixedTrial(params), Budget(500, cost))
    with pytest.raises(SpaceError, match="at least"):
        NOAH_DEPTH.space.suggest(FixedTrial(params), Budget(5, cost))


def test_no_block_comes_first_at_the_budget():
    space, budget = NOAH.space, Budget(cost(NOAH.space.largest) // 8, cost)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    chosen = np.mean([space.choices(space.suggest(study.ask(), budget).design) for _ in range(100)], axis=0)
    by_block = chosen.reshape(3, 12).mean(axis=0)
    assert by_block[:6].mean() == pytest.approx(by_block[6:].mean(), rel=0.2)
