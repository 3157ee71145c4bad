from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BruteForceSampler, NSGAIIISampler, TPESampler
from optuna.trial import TrialState
from sampler_cases import CHOSEN, PLAIN, SIZES, TUNED, cost, new_study, raw_study, run

from petlas.search.samplers import SAMPLERS, make_sampler
from petlas.search.samplers.feasible import FeasibleSampler, SpaceExhausted, distributions
from petlas.spaces import Budget, Candidate, Space, SpaceError


def test_a_database_accepts_the_ranges_that_the_budget_cuts(tmp_path: Path):
    space = Space.from_dict({"methods": {"lora": SIZES}}, 2)
    budget = Budget(33, cost)
    study = raw_study(
        FeasibleSampler(partial(TPESampler, n_startup_trials=2), space, budget, 0),
        storage=f"sqlite:///{tmp_path / 'study.db'}",
    )
    assert len(set(run(study, space, budget, 6))) == 6


def test_waiting_trials_count_and_those_left_out_of_the_study_do_not():
    space = Space.from_dict({"methods": {"lora": {"blocks": [0], "sizes": [0, 1]}}}, 1)
    sampler = make_sampler("random", space, Budget(), seed=0)
    study = new_study(sampler)
    study.enqueue_trial({}, user_attrs={"key": space.smallest.key})
    study.ask()  # The queued one.
    assert sampler.seen(study) == {space.smallest.key}
    assert space.suggest(study.ask(), Budget()).design == space.largest
    assert sampler.exhausted(study)
    again = new_study(sampler)
    again.add_trials(study.trials[1:])
    assert not sampler.exhausted(again)
    assert space.suggest(again.ask(), Budget()).design == space.smallest


def test_a_sampler_may_serve_several_studies():
    sampler = make_sampler("random", PLAIN, Budget(), seed=0)
    for design in (PLAIN.smallest, PLAIN.largest):
        study = new_study(sampler)
        study.enqueue_trial(PLAIN.params(design))
        run(study, PLAIN, Budget(), 1)
        assert sampler.seen(study) == {design.key}


def test_trials_are_known_by_their_parameters_before_they_have_a_key():
    for settings in ({}, {"lr": [1e-3, 3e-3]}):
        methods = {"lora": {"blocks": "all", "sizes": [0, 1]}}
        space = Space.from_dict({"methods": methods, "settings": settings}, 2)
        study = new_study(make_sampler("random", space, Budget(), seed=0))
        count = 8 if settings else 4
        assert len({space.suggest(study.ask(), Budget()).key for _ in range(count)}) == count


def test_parameters_of_another_space_are_of_no_candidate():
    sampler = make_sampler("random", TUNED, Budget(), seed=0)
    candidate = TUNED.sample(np.random.default_rng(0), Budget())
    params = TUNED.params(candidate)
    for given, keys in [
        (params, {candidate.key}),
        (params | {"other": 1}, {candidate.key}),
        (params | {"lora.0": 7}, set()),
        (params | {"lr": 1.0}, set()),
        ({name: value for name, value in params.items() if name != "lr"}, set()),
        ({}, set()),
    ]:
        study = new_study(None)
        study.enqueue_trial(given)
        trial = study.ask()
        for name, value in given.items():
            if name == "lr":
                trial.suggest_float(name, 0, value)
            else:
                trial.suggest_int(name, 0, int(value))
        assert sampler.seen(study) == keys


def test_other_parameters_of_a_trial_are_the_base_samplers():
    space = Space.from_dict({"methods": {"lora": {"blocks": [0], "sizes": [0, 1]}}}, 1)
    for name in SAMPLERS:
        study = new_study(make_sampler(name, space, Budget(), seed=0))
        rates = set()
        for design in (space.smallest, space.largest):
            study.enqueue_trial(space.params(design))
            trial = study.ask()
            assert space.suggest(trial, Budget()) == Candidate(design)
            rates |= {trial.suggest_float("lr", 0, 1), trial.suggest_float("drop", 0, 1)}
            study.tell(trial, [0, 0])
        assert len(rates) == 4


def test_settings_of_an_enqueued_design_are_drawn():
    for name in SAMPLERS:
        study = new_study(make_sampler(name, TUNED, Budget(), seed=0))
        rates = set()
        for _ in range(3):
            study.enqueue_trial(TUNED.params(TUNED.smallest))
            trial = study.ask()
            candidate = TUNED.suggest(trial, Budget())
            assert candidate.design == TUNED.smallest
            rates |= {value for _, value in candidate.settings}
            study.tell(trial, [0, 0])
        assert len(rates) == 3


@pytest.mark.filterwarnings("ignore:.*experimental")
def test_any_optuna_sampler_can_be_the_base():
    budget = Budget(40, cost)
    space = Space.from_dict({"methods": {"lora": SIZES}}, 3)
    for base in (partial(NSGAIIISampler, population_size=4), BruteForceSampler):
        study = new_study(FeasibleSampler(base, space, budget, 0))
        assert len(set(run(study, space, budget, 9))) == 9


def test_a_continuous_setting_is_never_exhausted_and_choices_are():
    methods = {"lora": {"blocks": [0], "sizes": [4]}}
    endless = Space.from_dict({"methods": methods, "settings": {"lr": {"low": 0.1, "high": 1}}}, 1)
    sampler = make_sampler("random", endless, Budget(), 0)
    study = new_study(sampler)
    assert len(set(run(study, endless, Budget(), 20))) == 20
    assert not sampler.exhausted(study)
    space = Space.from_dict({"methods": methods, "settings": {"lr": [0.1, 0.3, 1]}}, 1)
    sampler = make_sampler("random", space, Budget(), 0)
    study = new_study(sampler)
    assert len(set(run(study, space, Budget(), 3))) == 3
    assert sampler.exhausted(study)
    with pytest.raises(SpaceExhausted, match="all candidates of the space are in the study"):
        run(study, space, Budget(), 1)


def test_a_trial_goes_by_its_number_in_a_longer_study_where_that_is_told():
    short, long = (new_study(make_sampler("tpe", PLAIN, Budget(), 3)) for _ in range(2))
    for _ in range(40):  # Of which the sampler learns nothing.
        long.tell(long.ask(), state=TrialState.FAIL)
    found = []
    for study, first in ((short, 40), (long, None)):
        found.append([])
        for index in range(20):
            trial = study.ask()
            if first is not None:
                trial.set_user_attr("number", first + index)
            candidate = PLAIN.suggest(trial, Budget())
            found[-1].append(candidate)
            study.tell(trial, [cost(candidate.design), 0])
    assert found[0] == found[1]


def test_distributions_are_optunas():
    found = distributions(TUNED)
    assert found.keys() == TUNED.distributions().keys()
    assert found["lora.3"] == IntDistribution(0, 3)
    assert found["lr"] == FloatDistribution(3e-4, 2e-2, log=True)
    assert distributions(CHOSEN)["lr"] == IntDistribution(0, 1)
    single = Space.from_dict({"methods": {"lora": SIZES}, "settings": {"lr": [1e-3]}}, 2)
    sampler, study = make_sampler("random", single, Budget(), 0), new_study(None)
    study.ask()
    assert sampler.infer_relative_search_space(study, study.trials[0]).keys() == {"lora.0", "lora.1"}


def test_an_impossible_budget_is_refused_at_once():
    for name in SAMPLERS:
        with pytest.raises(SpaceError, match="raise the limit to at least 6"):
            make_sampler(name, CHOSEN, Budget(5, cost), 0)
