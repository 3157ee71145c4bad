"""What holds for every sampler there is, and for one that is added from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from sampler_cases import DEEP, PLAIN, SPACES, TUNED, accuracy, cost, new_study, raw_study, run

from petlas.search.samplers import SAMPLERS, make_sampler
from petlas.search.samplers.feasible import FeasibleSampler, SpaceExhausted
from petlas.spaces import Budget, Space, SpaceError

NAMES = (*SAMPLERS, "toy")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one line that another sampler needs."""
    monkeypatch.setitem(SAMPLERS, "toy", "toy_sampler:Cheapest")
    return


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("objectives", [1, 2])
def test_many_trials_are_distinct_and_within_the_budget(name: str, kind: str, objectives: int):
    space = SPACES[kind]
    budget, trials = Budget(cost(space.largest) // 3, cost), 55 if objectives == 2 else 30
    study = new_study(make_sampler(name, space, budget, seed=0), objectives)
    candidates = run(study, space, budget, trials)
    assert len({candidate.key for candidate in candidates}) == trials
    assert all(budget.allows(candidate.design) and candidate in space for candidate in candidates)
    assert [trial.params for trial in study.trials] == [space.params(candidate) for candidate in candidates]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objectives", [1, 2])
def test_an_ordinary_study_of_optuna_will_do(name: str, objectives: int):
    space, budget = TUNED, Budget(cost(TUNED.largest) // 2, cost)
    study, found = raw_study(make_sampler(name, space, budget, 0), objectives), []

    def values(trial: optuna.Trial) -> tuple[float, ...]:
        found.append(space.suggest(trial, budget))
        return (accuracy(found[-1]), float(cost(found[-1].design)))[:objectives]

    study.optimize(values, n_trials=25)
    assert len({candidate.key for candidate in found}) == 25
    assert all(budget.allows(candidate.design) for candidate in found)
    ours = new_study(make_sampler(name, space, budget, 0), objectives)
    for candidate in found:
        trial = ours.ask()
        assert space.suggest(trial, budget) == candidate
        ours.tell(trial, [accuracy(candidate), cost(candidate.design)][:objectives])


def test_tpe_and_nsga2_learn():
    budget, last = Budget(cost(PLAIN.largest) // 2, cost), {}
    for name in ("tpe", "nsga2", "random"):
        study = new_study(make_sampler(name, PLAIN, budget, seed=1))
        last[name] = np.mean([accuracy(candidate) for candidate in run(study, PLAIN, budget, 80)[50:]])
    assert last["tpe"] > last["random"] + 0.2
    assert last["nsga2"] > last["random"] + 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", [DEEP, TUNED])
def test_a_seed_gives_the_same_proposals_also_after_an_interruption(name: str, space: Space):
    budget = Budget(cost(space.largest) // 3, cost)
    whole = run(new_study(make_sampler(name, space, budget, seed=5)), space, budget, 40)
    study = new_study(None)
    parts = []
    for trials in (33, 7):
        study.sampler = make_sampler(name, space, budget, seed=5)
        parts += run(study, space, budget, trials)
    assert parts == whole
    other = run(new_study(make_sampler(name, space, budget, seed=6)), space, budget, 5)
    assert other != whole[:5]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_that_is_filled_anew_goes_on_as_it_would_have(name: str):
    budget = Budget(cost(TUNED.largest) // 3, cost)
    study = new_study(make_sampler(name, TUNED, budget, seed=5))
    whole = run(study, TUNED, budget, 60)
    again = new_study(make_sampler(name, TUNED, budget, seed=5))
    again.add_trials(study.trials[:50])
    assert run(again, TUNED, budget, 10) == whole[50:]


@pytest.mark.parametrize("name", NAMES)
def test_a_small_space_is_searched_to_its_end(name: str):
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 5]}}}, 3)
    budget = Budget(21, cost)
    feasible = {design.key for design in space.designs(budget)}
    assert 10 < len(feasible) < space.count()
    sampler = make_sampler(name, space, budget, seed=0)
    study = new_study(sampler)
    assert not sampler.exhausted(study)
    candidates = run(study, space, budget, len(feasible) - 1)
    assert not sampler.exhausted(study)
    candidates += run(study, space, budget, 1)
    assert {candidate.key for candidate in candidates} == feasible
    assert sampler.exhausted(study)
    with pytest.raises(SpaceExhausted, match="within the budget of 21 are in the study"):
        run(study, space, budget, 1)


@pytest.mark.parametrize("name", NAMES)
def test_each_study_may_have_every_candidate_once(name: str):
    settings = {"lr": [1e-3, 3e-3]}
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}, "settings": settings}, 3)
    sampler = make_sampler(name, space, Budget(), 0)
    for _ in range(2):
        study = new_study(sampler)
        assert not sampler.exhausted(study)
        assert len({candidate.key for candidate in run(study, space, Budget(), 16)}) == 16
        assert sampler.exhausted(study)


@pytest.mark.parametrize("name", NAMES)
def test_trials_that_a_study_leaves_out_change_nothing(name: str):
    budget, found = Budget(cost(DEEP.largest) // 3, cost), []
    for other in (name, "random"):
        run(new_study(make_sampler(other, DEEP, budget, 1)), DEEP, budget, 40)
        study = new_study(make_sampler(name, DEEP, budget, 5))
        found.append(run(study, DEEP, budget, 40, first=40))  # Two generations, with those that fail.
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_running_trials_are_not_proposed_again(name: str):
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}}, 3)
    study = new_study(make_sampler(name, space, Budget(), seed=0))
    assert len({space.suggest(study.ask(), Budget()).key for _ in range(8)}) == 8


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(SpaceError, match="one of tpe, nsga2, random, evolution, toy, got 'bayes'"):
        make_sampler("bayes", PLAIN, Budget(), 0)
    for name in NAMES:
        with pytest.raises(SpaceError, match="raise the limit to at least 6"):
            make_sampler(name, DEEP, Budget(5, cost), 0)
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            make_sampler(name, DEEP, Budget(), 0, {"colour": 1})


def test_a_sampler_from_outside_needs_one_class_and_one_line():
    sampler = make_sampler("toy", PLAIN, Budget(), 0, {"of": 32})
    assert isinstance(sampler, FeasibleSampler)
    study = new_study(sampler)
    sizes = [len(candidate.design.placements) for candidate in run(study, PLAIN, Budget(), 20)]
    others = run(new_study(make_sampler("random", PLAIN, Budget(), 0)), PLAIN, Budget(), 20)
    assert np.mean(sizes) < np.mean([len(candidate.design.placements) for candidate in others]) - 2
    assert any(trial.state is TrialState.PRUNED for trial in study.trials)


def test_the_names_of_samplers_are_known_without_optuna_and_torch():
    loaded = "'optuna' in sys.modules, 'torch' in sys.modules"
    code = f"import sys; from petlas.search.samplers import SAMPLERS; print(*SAMPLERS, {loaded})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["tpe", "nsga2", "random", "evolution", "False", "False"]
