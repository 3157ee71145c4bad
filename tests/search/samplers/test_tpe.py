from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial
from sampler_cases import PLAIN, accuracy, cost, new_study, raw_study

from petlas.search.samplers import make_sampler
from petlas.search.samplers.tpe import TPE
from petlas.spaces import Budget, Space


def test_tpe_ranks_pruned_trials_by_the_first_objective():
    study = new_study(TPESampler(seed=0, constant_liar=False))
    for value in range(12):
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params={"x": value % 4},
                distributions={"x": IntDistribution(0, 3)},
                intermediate_values={1: value % 4 / 4},
            )
        )
    assert np.mean([study.ask().suggest_int("x", 0, 3) for _ in range(20)]) > 2


def test_tpe_proposes_in_our_study_what_it_does_in_optunas_where_that_works():
    space = {name: IntDistribution(*ends) for name, ends in PLAIN.distributions().items()}  # type: ignore[arg-type]
    rng, proposals = np.random.default_rng(0), []
    candidates = [PLAIN.sample(rng, Budget()) for _ in range(21)]
    for make in (raw_study, new_study):
        sampler = TPESampler(seed=3)
        study = make(sampler)
        for candidate in candidates[:-1]:
            values = [accuracy(candidate), cost(candidate.design)]
            study.add_trial(create_trial(params=PLAIN.params(candidate), distributions=space, values=values))
        running = create_trial(state=TrialState.RUNNING, params=PLAIN.params(candidates[-1]), distributions=space)
        study.add_trial(running)
        study.ask()
        proposals.append(sampler.sample_relative(study, study.trials[-1], space))
    assert proposals[0] == proposals[1]
    assert proposals[0].keys() == space.keys()


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("spec", [{"low": 1e-4, "high": 1e-1, "log": True}, [1e-4, 1e-3, 1e-2, 1e-1]])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(best=st.sampled_from([1e-4, 1e-3, 1e-2]), seed=st.integers(0, 999))
def test_tpe_finds_a_good_learning_rate_more_often_than_random(objectives: int, spec: Any, best: float, seed: int):
    methods = {"lora": {"blocks": "all", "sizes": [0, 1, 5, 10]}}
    space = Space.from_dict({"methods": methods, "settings": {"lr": spec}}, 4)
    good = {}
    for name in ("tpe", "random"):
        study = new_study(make_sampler(name, space, Budget(), seed), objectives)
        distances = []
        for _ in range(60):
            trial = study.ask()
            candidate = space.suggest(trial, Budget())
            distances.append(abs(np.log10(dict(candidate.settings)["lr"] / best)))
            late = sum((p.block or 0) * (p.size or 0) for p in candidate.design.placements) / 100
            study.tell(trial, [late - distances[-1], float(len(candidate.design.placements))][:objectives])
        good[name] = np.mean(np.array(distances[20:]) < 0.5)
    assert good["tpe"] > good["random"] + 0.1


def test_the_startup_is_drawn_at_random():
    found = []
    for startup in (5, 10):
        study = new_study(TPE(PLAIN, Budget(), 0, startup=startup))
        found.append([])
        for _ in range(8):
            trial = study.ask()
            candidate = PLAIN.suggest(trial, Budget())
            found[-1].append(candidate)
            study.tell(trial, [accuracy(candidate), 0])
    assert found[0][:5] == found[1][:5]
    assert found[0][5:] != found[1][5:]
