from __future__ import annotations

from functools import partial

import numpy as np
from optuna.samplers import NSGAIISampler
from sampler_cases import DEEP, PLAIN, accuracy, cost, new_study, run

from petlas.search.samplers.feasible import FeasibleSampler
from petlas.search.samplers.nsga2 import GENERATION, NSGA2
from petlas.spaces import Budget


def test_enqueued_candidates_are_of_a_generation_where_the_space_has_them():
    study = new_study(NSGA2(DEEP, Budget(), 0))
    study.enqueue_trial(DEEP.params(DEEP.smallest))
    run(study, DEEP, Budget(), 1)
    study.enqueue_trial({}, user_attrs={"key": "of no space"})
    study.tell(study.ask(), [0, 0])
    assert [trial.system_attrs.keys() == {"fixed_params"} for trial in study.trials] == [False, True]


def test_enqueued_designs_are_parents():
    budget = Budget(cost(PLAIN.largest) // 2, cost)
    sampler = FeasibleSampler(partial(NSGAIISampler, population_size=4, mutation_prob=0.0), PLAIN, budget, 0)
    study = new_study(sampler)
    rng = np.random.default_rng(0)
    parents = [PLAIN.sample(rng, budget).design for _ in range(4)]
    for design in parents:
        study.enqueue_trial(PLAIN.params(design))
    run(study, PLAIN, budget, 1)
    for _ in range(3):
        trial = study.ask()
        candidate = PLAIN.suggest(trial, budget)
        study.tell(trial, [accuracy(candidate), cost(candidate.design)])
    trial = study.ask()
    child = PLAIN.choices(PLAIN.suggest(trial, budget).design)
    genes = list(zip(*(PLAIN.choices(parent) for parent in parents), strict=True))
    assert np.mean([gene in options for gene, options in zip(child, genes, strict=True)]) > 0.9


def test_the_population_is_what_it_is_told():
    for population in (4, 8):
        study = new_study(NSGA2(PLAIN, Budget(), 0, population=population))
        run(study, PLAIN, Budget(), 30)
        generations = [trial.system_attrs[GENERATION] for trial in study.trials]
        complete = [g for g, trial in zip(generations, study.trials, strict=True) if trial.values]
        assert complete.count(0) == population
