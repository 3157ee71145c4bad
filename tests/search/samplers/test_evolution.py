from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from petlas.petl.design import Design
from petlas.search.config import EvolutionConfig, load_config
from petlas.search.samplers import make_sampler
from petlas.search.samplers.evolution import NOAH, Evolution, EvolutionSampler
from petlas.search.samplers.feasible import FeasibleSampler, SpaceExhausted, distributions
from petlas.search.samplers.learning import LearningStudy
from petlas.spaces import Budget, Candidate, Space, SpaceError

METHODS = ("vpt", "lora", "adapter")
SIZES = {"blocks": "all", "sizes": [0, 1, 5, 10]}
PLAIN = Space.from_dict({"methods": dict.fromkeys(METHODS, SIZES)}, 4)
DEEP = Space.from_dict({"methods": dict.fromkeys(METHODS, SIZES), "depth": [1, 3]}, 4)
STEPS = Evolution(population=6, parents=2, mutations=6, crossovers=0, probability=0)
"""Each child is one step from its parent."""


def cost(design: Design) -> int:
    return sum({"vpt": 1, "lora": 4, "adapter": 2}[p.method] * (p.size or 1) for p in design.placements)


def accuracy(design: Design) -> float:
    """Likes LoRA in late blocks, and nothing else."""
    return sum((p.block or 0) * (p.size or 0) * (1 if p.method == "lora" else -1) for p in design.placements) / 100


def new_study(sampler: FeasibleSampler) -> LearningStudy:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return LearningStudy(["maximize", "minimize"], sampler)


def run(study: LearningStudy, space: Space, budget: Budget, trials: int) -> list[Design]:
    """Scores designs one after the other; one in seven fails."""
    designs = []
    for _ in range(trials):
        trial = study.ask()
        design = space.suggest(trial, budget).design
        designs.append(design)
        if int(design.key, 16) % 7 == 0:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [accuracy(design), cost(design)])
    return designs


def trial_of(design: Design, *values: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    ranges = distributions(PLAIN)
    return create_trial(params=PLAIN.params(design), distributions=ranges, values=values or None, state=state)


def proposals(trials: list[FrozenTrial], evolution: Evolution) -> list[Design]:
    """The next design after some trials, by many seeds."""
    designs = []
    for seed in range(8):
        study = new_study(EvolutionSampler(PLAIN, Budget(), seed, evolution))
        study.add_trials(trials)
        designs.append(PLAIN.suggest(study.ask(), Budget()).design)
    return designs


def parents(trials: list[FrozenTrial], among: list[Design]) -> set[int]:
    """The positions, among some designs, of those that the next design is one step from."""
    children = proposals(trials, STEPS)
    found = {i for child in children for i, design in enumerate(among) if distance(child, design) == 1}
    assert not found or all(any(distance(child, among[i]) == 1 for i in found) for child in children)
    return found


def distance(a: Design, b: Design) -> int:
    return sum(x != y for x, y in zip(PLAIN.choices(a), PLAIN.choices(b), strict=True))


def crossed(child: Design, among: list[Design]) -> bool:
    """Whether each method of the child is that of a parent, as a whole."""
    return all(child.by_method.get(m) in [parent.by_method.get(m) for parent in among] for m in METHODS)


@pytest.fixture(scope="module")
def designs() -> list[Design]:
    """Twelve designs, none near another."""
    rng, found = np.random.default_rng(0), [PLAIN.smallest]
    while len(found) < 12:
        design = PLAIN.sample(rng, Budget()).design
        if min(distance(design, other) for other in found) > 2:
            found.append(design)
    return found


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([PLAIN, DEEP]), st.floats(0.1, 1), st.integers(0, 99), st.integers(0, 4), st.integers(0, 4),
    st.sampled_from(["dimension", "method", "block"]),
)  # fmt: skip
def test_designs_are_distinct_and_within_the_budget(
    space: Space, share: float, seed: int, mutations: int, crossovers: int, by: Any
):
    least = cost(space.smallest)
    budget = Budget(least + round(share * (cost(space.largest) - least)), cost)
    evolution = Evolution(population=8, parents=3, mutations=mutations, crossovers=crossovers, by=by)
    found = run(new_study(EvolutionSampler(space, budget, seed, evolution)), space, budget, 30)
    assert len({design.key for design in found}) == 30
    assert all(budget.allows(design) and design in space for design in found)


def test_noahs_settings_are_those_of_its_code():
    assert Evolution(50, 10, 25, 25, 0.2, 0.4, "method", False) == NOAH


def test_the_settings_of_a_run_are_the_samplers():
    assert Evolution(**EvolutionConfig().model_dump()) == Evolution()
    config = load_config("noah")
    assert Evolution(**config.search.evolution.model_dump()) == NOAH
    assert config.search.scores == 800  # 50 designs and 15 generations of 50


def test_a_generation_is_mutants_then_children_of_two_then_random_designs(designs: list[Design]):
    evolution = Evolution(12, 3, 5, 4, probability=0, by="method")
    good, trials = designs[:3], [trial_of(design, i < 3, 0) for i, design in enumerate(designs)]
    for place in range(12):
        children = proposals(trials, evolution)
        steps = [min(distance(child, parent) for parent in good) for child in children]
        assert (set(steps) == {1}) == (place < 5)
        assert all(crossed(child, good) for child in children) == (5 <= place < 9)
        assert max(steps) > 1 or place < 5
        trials.append(trial_of(children[0], 0, 0))
    assert {min(distance(child, parent) for parent in good) for child in proposals(trials, evolution)} == {1}


def test_crossover_is_by_what_the_settings_say(designs: list[Design]):
    trials, starts = [trial_of(design, i < 2, 0) for i, design in enumerate(designs)], []
    first = [[p for p in design.placements if p.block == 0] for design in designs[:2]]
    for by in ("block", "method", "dimension"):
        children = proposals(trials, Evolution(population=12, parents=2, mutations=0, crossovers=12, by=by))
        starts.append(all([p for p in child.placements if p.block == 0] in first for child in children))
        assert all(crossed(child, designs[:2]) for child in children) == (by == "method")
    assert starts == [True, False, False]


def test_depth_moves_by_its_own_probability_where_the_space_has_depths():
    for probability, depths in ((0.0, {1}), (1.0, {2})):
        evolution = Evolution(population=1, parents=1, mutations=1, crossovers=0, depth_probability=probability)
        found = run(new_study(EvolutionSampler(DEEP, Budget(), 1, evolution)), DEEP, Budget(), 5)
        assert {len({DEEP.point(design)[rule] for design in found}) for rule in range(3)} == depths


def test_parents_are_the_best_by_accuracy_then_parameters_then_number(designs: list[Design]):
    values = [(0.5, 9), (0.9, 9), (0.8, 3), (0.8, 2), (0.8, 2), (0.1, 0)]
    trials = [trial_of(design, *pair) for design, pair in zip(designs, values, strict=False)]
    assert parents(trials, designs) == {1, 3}


def test_all_earlier_generations_have_parents_but_not_the_current_one(designs: list[Design]):
    first = [trial_of(design, 0.5 if i == 4 else 0.1, 0) for i, design in enumerate(designs[:6])]
    second = [trial_of(design, 0.6 if i == 1 else 0.2, 0) for i, design in enumerate(designs[6:])]
    for count in range(6):
        assert 4 in parents(first + second[:count], designs)
        assert 7 not in parents(first + second[:count], designs)
    assert parents(first + second, designs) == {4, 7}


def test_nothing_waits_for_running_trials(designs: list[Design]):
    running = [trial_of(design, state=TrialState.RUNNING) for design in designs[:6]]
    assert parents(running, designs) == set()
    assert parents([*running[:3], trial_of(designs[3], 0, 0), *running[4:]], designs) == {3}
    best = [trial_of(designs[1], 9, 9), trial_of(designs[2], 8, 8)]
    assert parents([running[0], *best, *running[3:]], designs) == {1, 2}


def test_a_place_is_that_of_the_trials_number_also_where_a_later_trial_has_its_design_first(designs: list[Design]):
    study = new_study(EvolutionSampler(PLAIN, Budget(), 0, STEPS))
    study.add_trials([trial_of(design, 0, 0) for design in designs[:5]])
    trials = [study.ask(), study.ask()]
    mutant, stranger = (PLAIN.suggest(trial, Budget()).design for trial in reversed(trials))
    assert min(distance(mutant, design) for design in designs[:5]) == 1
    assert min(distance(stranger, design) for design in [mutant, *designs[:5]]) > 1


def test_failed_and_pruned_trials_keep_their_places_but_are_no_parents(designs: list[Design]):
    trials = [trial_of(design, 0, 0) for design in designs[:2]]
    trials += [trial_of(design, state=TrialState.FAIL) for design in designs[2:4]]
    trials += [trial_of(design, 1, 0, state=TrialState.PRUNED) for design in designs[4:6]]
    assert parents(trials[:-1], designs) == set()
    assert parents(trials, designs) == {0, 1}


def test_a_seed_gives_the_same_designs_also_where_a_trial_was_cut_off():
    budget, evolution, found = Budget(cost(PLAIN.largest) // 2, cost), Evolution(8, 3, 4, 4), []
    for seed, cut in ((5, None), (5, 11), (6, None)):
        study = new_study(EvolutionSampler(PLAIN, budget, seed, evolution))
        designs = run(study, PLAIN, budget, 24 if cut is None else cut)
        if cut is not None:
            before, design = study.trials, PLAIN.suggest(study.ask(), budget)
            study = new_study(EvolutionSampler(PLAIN, budget, seed, evolution))
            study.add_trials(before)
            study.enqueue_trial(PLAIN.params(design))
            designs += run(study, PLAIN, budget, 24 - cut)
        found.append(designs)
    assert found[0] == found[1] != found[2]


def test_evolution_beats_random_designs():
    budget, evolution = Budget(cost(PLAIN.largest) // 2, cost), Evolution(16, 4, 8, 8)
    best = [
        max(accuracy(design) for design in run(new_study(sampler), PLAIN, budget, 80))
        for sampler in (EvolutionSampler(PLAIN, budget, 0, evolution), make_sampler("random", PLAIN, budget, 0))
    ]
    assert best[0] > best[1] + 0.1


def test_random_designs_come_where_variation_gives_nothing_new(designs: list[Design]):
    twins = Evolution(population=12, parents=2, mutations=0, crossovers=12, by="method")
    near = PLAIN.design([0] * 11 + [1]), PLAIN.design([0] * 10 + [1, 0])  # Whose children are the two themselves.
    trials = [trial_of(design, design in near, 0) for design in [*near, *designs[1:11]]]
    assert all(min(distance(child, design) for design in near) > 1 for child in proposals(trials, twins))


def test_a_small_space_is_searched_to_its_end():
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 5]}}}, 3)
    study = new_study(EvolutionSampler(space, Budget(), 0, Evolution(4, 2, 2, 2)))
    assert len({design.key for design in run(study, space, Budget(), 27)}) == 27
    with pytest.raises(SpaceExhausted, match="all candidates of the space"):
        run(study, space, Budget(), 1)


def test_wrong_settings_are_refused_at_once():
    for fault, message in [
        ({"population": 0}, "population must be at least 1, got population=0"),
        ({"parents": 0}, "parents must be at least 1"),
        ({"crossovers": -1}, "crossovers must be at least 0"),
        ({"probability": 1.5}, "probability must be from 0 to 1, got probability=1.5"),
        ({"mutations": 26}, "population of 50 has no room for mutations=26 and crossovers=25"),
        ({"by": "layer"}, "one of dimension, method, block, got by='layer'"),
    ]:
        with pytest.raises(SpaceError, match=message):
            Evolution(**fault)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="raise the limit to at least 7"):
        EvolutionSampler(DEEP, Budget(5, cost), 0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'generations'"):
        make_sampler("evolution", DEEP, Budget(), 0, {"generations": 3})


def test_settings_one_by_one_are_those_of_an_evolution():
    settings = {"population": 6, "parents": 2, "mutations": 4, "crossovers": 2}
    samplers = (
        EvolutionSampler(PLAIN, Budget(), 0, Evolution(6, 2, 4, 2)),
        make_sampler("evolution", PLAIN, Budget(), 0, settings),
    )
    found = [run(new_study(sampler), PLAIN, Budget(), 20) for sampler in samplers]
    assert found[0] == found[1] != run(new_study(EvolutionSampler(PLAIN, Budget(), 0)), PLAIN, Budget(), 20)


@pytest.fixture(scope="module")
def tuned() -> Space:
    settings = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "weight_decay": [1e-4, 1e-3, 1e-2]}
    return Space.from_dict({"methods": dict.fromkeys(METHODS, SIZES), "settings": settings}, 4)


def children(space: Space, evolution: Evolution, rates: tuple[float, ...]) -> list[dict[str, float]]:
    """The settings of the second generation, whose parents have these learning rates, by some seeds."""
    found = []
    for seed in range(30):
        study = new_study(EvolutionSampler(space, Budget(), seed, evolution))
        rng = np.random.default_rng(0)
        for rate in rates:
            settings = (("lr", rate), ("weight_decay", 1e-3))
            params = space.params(Candidate(space.sample(rng, Budget()).design, settings))
            study.add_trial(create_trial(params=params, distributions=distributions(space), values=[1, 0]))
        found.append(dict(space.suggest(study.ask(), Budget()).settings))
    return found


def test_mutants_keep_their_parents_settings_or_step_from_them(tuned: Space):
    for probability in (0.0, 1.0):
        evolution = Evolution(population=2, parents=2, mutations=2, crossovers=0, probability=probability)
        mutants = children(tuned, evolution, (1e-3, 1e-3))
        assert {mutant["lr"] == 1e-3 for mutant in mutants} == {not probability}
        assert {mutant["weight_decay"] for mutant in mutants} == ({1e-4, 1e-2} if probability else {1e-3})
        steps = np.log([mutant["lr"] / 1e-3 for mutant in mutants])
        assert np.std(steps) == pytest.approx(probability * 0.15 * np.log(1e3), rel=0.4)


def test_children_of_two_have_the_settings_of_one_of_them(tuned: Space):
    evolution = Evolution(population=2, parents=2, mutations=0, crossovers=2)
    assert {child["lr"] for child in children(tuned, evolution, (1e-3, 1e-2))} == {1e-3, 1e-2}


def test_evolution_finds_a_good_learning_rate_more_often_than_random(tuned: Space):
    evolution, good = {"population": 12, "parents": 3, "mutations": 6, "crossovers": 4}, {}
    for name, numbers in (("evolution", evolution), ("random", {})):
        study = new_study(make_sampler(name, tuned, Budget(), 0, numbers))
        distances = []
        for _ in range(84):
            trial = study.ask()
            distances.append(abs(np.log10(dict(tuned.suggest(trial, Budget()).settings)["lr"] / 3e-3)))
            study.tell(trial, [-distances[-1], 0])
        good[name] = np.mean(np.array(distances[36:]) < 0.3)
    assert good["evolution"] > good["random"] + 0.2
