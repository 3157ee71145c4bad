from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState, create_trial

from petlas.petl.design import Design
from petlas.search.evolution import EvolutionSampler
from petlas.search.samplers import FeasibleSampler, PrunedAwareTPE, SpaceExhausted, make_sampler
from petlas.spaces import Budget, Space, SpaceError

NAMES = ("tpe", "nsga2", "random", "evolution")


def sampler_of(name: str, space: Space, budget: Budget, seed: int, stage: str | None = None) -> FeasibleSampler:
    if name == "evolution":
        return EvolutionSampler(space, budget, seed, stage=stage)
    return make_sampler(name, space, budget, seed, stage)  # type: ignore[arg-type]


SIZES = {"blocks": "all", "sizes": [0, 1, 5, 10]}
PLAIN = Space.from_dict({"methods": {"lora": SIZES, "adapter": SIZES}}, 6)
DEEP = Space.from_dict({"methods": {"lora": SIZES, "adapter": SIZES}, "depth": {"lora": [2, 4, 6]}}, 6)


def cost(design: Design) -> int:
    return sum({"lora": 3, "adapter": 2}[p.method] * (p.size or 1) for p in design.placements)


def accuracy(design: Design) -> float:
    """Likes LoRA in late blocks."""
    return sum((p.block or 0) * (p.size or 0) * (1 if p.method == "lora" else -1) for p in design.placements) / 100


def new_study(sampler: BaseSampler | None, **options: Any) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler, **options)


def run(study: optuna.Study, space: Space, budget: Budget, trials: int, stage: str | None = None) -> list[Design]:
    """Runs trials as a search does: every third is pruned with its intermediate values, every tenth fails."""
    designs = []
    for _ in range(trials):
        trial = study.ask()
        if stage is not None:
            trial.set_user_attr("stage", stage)
        design = space.suggest(trial, budget)
        designs.append(design)
        trial.set_user_attr("key", design.key)
        if trial.number % 10 == 9:
            study.tell(trial, state=TrialState.FAIL)
        elif trial.number % 3 == 2:
            study._storage.set_trial_intermediate_value(trial._trial_id, 1, accuracy(design))
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [accuracy(design), cost(design)])
    return designs


def study_of_pruned_trials(sampler: BaseSampler) -> optuna.Study:
    study = new_study(sampler)
    for value in range(12):
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params={"x": value % 4},
                distributions={"x": IntDistribution(0, 3)},
                intermediate_values={1: value % 4 / 4},
            )
        )
    return study


def test_stock_tpe_raises_on_pruned_trials_of_several_objectives():
    """Should this fail: Optuna has mended it, and PrunedAwareTPE may go."""
    study = study_of_pruned_trials(TPESampler(seed=0))
    with pytest.raises(RuntimeError, match="single direction"):
        study.ask().suggest_int("x", 0, 3)


def test_our_tpe_ranks_pruned_trials_by_the_first_objective():
    study = study_of_pruned_trials(PrunedAwareTPE(seed=0, constant_liar=False))
    assert np.mean([study.ask().suggest_int("x", 0, 3) for _ in range(20)]) > 2


def test_our_tpe_proposes_what_stock_tpe_does_where_that_works():
    space = {name: IntDistribution(*ends) for name, ends in PLAIN.distributions().items()}
    rng, proposals = np.random.default_rng(0), []
    designs = [PLAIN.sample(rng, Budget()) for _ in range(21)]
    for sampler in (TPESampler(seed=3), PrunedAwareTPE(seed=3)):
        study = new_study(sampler)
        for design in designs[:-1]:
            values = [accuracy(design), cost(design)]
            study.add_trial(create_trial(params=PLAIN.params(design), distributions=space, values=values))
        running = create_trial(state=TrialState.RUNNING, params=PLAIN.params(designs[-1]), distributions=space)
        study.add_trial(running)
        study.ask()
        proposals.append(sampler.sample_relative(study, study.trials[-1], space))
    assert proposals[0] == proposals[1]
    assert proposals[0].keys() == space.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", [PLAIN, DEEP])
def test_a_hundred_trials_are_distinct_and_within_the_budget(name: Any, space: Space):
    budget = Budget(cost(space.largest) // 3, cost)
    study = new_study(sampler_of(name, space, budget, seed=0))
    designs = run(study, space, budget, 100)
    assert len({design.key for design in designs}) == 100
    assert all(budget.allows(design) and design in space for design in designs)


def test_tpe_and_nsga2_learn():
    budget, last = Budget(cost(PLAIN.largest) // 2, cost), {}
    for name in ("tpe", "nsga2", "random"):
        study = new_study(sampler_of(name, PLAIN, budget, seed=1))  # type: ignore[arg-type]
        last[name] = np.mean([accuracy(design) for design in run(study, PLAIN, budget, 80)[50:]])
    assert last["tpe"] > last["random"] + 0.2
    assert last["nsga2"] > last["random"] + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_proposals_also_after_an_interruption(name: Any):
    budget = Budget(cost(DEEP.largest) // 3, cost)
    whole = run(new_study(sampler_of(name, DEEP, budget, seed=5)), DEEP, budget, 40)
    study = new_study(None)
    parts = []
    for trials in (33, 7):
        study.sampler = sampler_of(name, DEEP, budget, seed=5)
        parts += run(study, DEEP, budget, trials)
    assert parts == whole
    other = run(new_study(sampler_of(name, DEEP, budget, seed=6)), DEEP, budget, 5)
    assert other != whole[:5]


def test_a_database_accepts_the_ranges_that_the_budget_cuts(tmp_path: Path):
    space = Space.from_dict({"methods": {"lora": SIZES}}, 2)
    budget = Budget(33, cost)
    study = new_study(
        FeasibleSampler(partial(PrunedAwareTPE, n_startup_trials=2), space, budget, 0),
        storage=f"sqlite:///{tmp_path / 'study.db'}",
    )
    assert len(set(run(study, space, budget, 6))) == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_small_space_is_searched_to_its_end(name: Any):
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 5]}}}, 3)
    budget = Budget(21, cost)
    feasible = {design.key for design in space.designs(budget)}
    assert 10 < len(feasible) < space.count()
    sampler = sampler_of(name, space, budget, seed=0)
    study = new_study(sampler)
    assert not sampler.exhausted(study)
    designs = run(study, space, budget, len(feasible) - 1)
    assert not sampler.exhausted(study)
    designs += run(study, space, budget, 1)
    assert {design.key for design in designs} == feasible
    assert sampler.exhausted(study)
    with pytest.raises(SpaceExhausted, match="within the budget of 21 are in the study"):
        run(study, space, budget, 1)


def test_interrupted_trials_do_not_count_and_waiting_ones_do():
    space = Space.from_dict({"methods": {"lora": {"blocks": [0], "sizes": [0, 1]}}}, 1)
    sampler = sampler_of("random", space, Budget(), seed=0)
    study = new_study(sampler)
    study.enqueue_trial({}, user_attrs={"key": space.smallest.key})
    trial = study.ask()  # The queued one.
    assert sampler.seen(study) == {space.smallest.key}
    assert space.suggest(study.ask(), Budget()) == space.largest
    assert sampler.exhausted(study)
    study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
    study.tell(trial, state=TrialState.FAIL)
    assert not sampler.exhausted(study)
    assert space.suggest(study.ask(), Budget()) == space.smallest


@pytest.mark.parametrize("name", NAMES)
def test_trials_of_other_stages_change_nothing(name: Any):
    budget, found = Budget(cost(DEEP.largest) // 3, cost), []
    for other in (name, "random"):
        study = new_study(sampler_of(other, DEEP, budget, 1, "score"))
        run(study, DEEP, budget, 40, "score")
        study.sampler = sampler_of(name, DEEP, budget, 5, "search")
        found.append(run(study, DEEP, budget, 40, "search"))  # Two generations, with those that fail.
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_each_stage_may_have_every_design_once(name: Any):
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}}, 3)
    study = new_study(None)
    for stage in ("score", "search"):
        sampler = study.sampler = sampler_of(name, space, Budget(), 0, stage)
        assert not sampler.exhausted(study)
        assert len({design.key for design in run(study, space, Budget(), 8, stage)}) == 8
        assert sampler.exhausted(study)


def test_a_genetic_base_counts_enqueued_designs_of_its_stage_alone():
    study = new_study(sampler_of("nsga2", DEEP, Budget(), 0, "search"))
    for stage, design in (("search", DEEP.smallest), ("baseline", DEEP.largest)):
        study.enqueue_trial(DEEP.params(design), user_attrs={"stage": stage})
        run(study, DEEP, Budget(), 1)
    assert [trial.system_attrs.keys() == {"fixed_params"} for trial in study.trials] == [False, True]


def test_a_sampler_may_serve_several_studies():
    sampler = sampler_of("random", PLAIN, Budget(), seed=0)
    for design in (PLAIN.smallest, PLAIN.largest):
        study = new_study(sampler)
        study.enqueue_trial(PLAIN.params(design))
        run(study, PLAIN, Budget(), 1)
        assert sampler.seen(study) == {design.key}


def test_trials_are_known_by_their_parameters_before_they_have_a_key():
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1]}}}, 3)
    study = new_study(sampler_of("random", space, Budget(), seed=0))
    assert len({space.suggest(study.ask(), Budget()).key for _ in range(8)}) == 8


def test_other_parameters_of_a_trial_are_the_base_samplers():
    space = Space.from_dict({"methods": {"lora": {"blocks": [0], "sizes": [0, 1]}}}, 1)
    for name in NAMES:
        study = new_study(sampler_of(name, space, Budget(), seed=0))  # type: ignore[arg-type]
        rates = set()
        for design in (space.smallest, space.largest):
            study.enqueue_trial(space.params(design))
            trial = study.ask()
            assert space.suggest(trial, Budget()) == design
            rates |= {trial.suggest_float("lr", 0, 1), trial.suggest_float("drop", 0, 1)}
            study.tell(trial, [0, 0])
        assert len(rates) == 4


def test_enqueued_designs_are_parents_of_nsga2():
    budget = Budget(cost(PLAIN.largest) // 2, cost)
    sampler = FeasibleSampler(partial(NSGAIISampler, population_size=4, mutation_prob=0.0), PLAIN, budget, 0)
    study = new_study(sampler)
    rng = np.random.default_rng(0)
    parents = [PLAIN.sample(rng, budget) for _ in range(4)]
    for design in parents:
        study.enqueue_trial(PLAIN.params(design))
    run(study, PLAIN, budget, 1)
    for _ in range(3):
        trial = study.ask()
        design = PLAIN.suggest(trial, budget)
        study.tell(trial, [accuracy(design), cost(design)])
    trial = study.ask()
    child = PLAIN.choices(PLAIN.suggest(trial, budget))
    genes = list(zip(*(PLAIN.choices(parent) for parent in parents), strict=True))
    assert np.mean([gene in options for gene, options in zip(child, genes, strict=True)]) > 0.9


@pytest.mark.filterwarnings("ignore:.*experimental")
def test_any_optuna_sampler_can_be_the_base():
    budget = Budget(40, cost)
    space = Space.from_dict({"methods": {"lora": SIZES}}, 3)
    for base in (partial(NSGAIIISampler, population_size=4), BruteForceSampler):
        study = new_study(FeasibleSampler(base, space, budget, 0))
        assert len(set(run(study, space, budget, 9))) == 9


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(SpaceError, match="one of tpe, nsga2, random, got 'bayes'"):
        make_sampler("bayes", PLAIN, Budget(), 0)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="raise the limit to at least 6"):
        make_sampler("tpe", DEEP, Budget(5, cost), 0)
