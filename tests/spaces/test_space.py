from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial
from space_cases import FREE, NOAH, TUNED, Case, cases, cost, quick, settings

import petlas.spaces
from petlas.spaces import Budget, Candidate, Choices, Dimension, Range, Space, SpaceError

SEEDS = st.integers(0, 2**32)


@quick
@given(cases())
def test_choices_and_params_name_each_design_once(case: Case):
    names = set()
    for design in case.every:
        assert design in case.space
        assert case.space.design(case.space.choices(design)) == design
        assert case.space.of_params(case.space.params(design)) == Candidate(design)
        params = case.space.params(design)
        assert all(low <= params[name] <= high for name, (low, high) in case.space.distributions().items())
        names.add(tuple(params.items()))
    assert len(names) == len(case.every)


def test_names_ranges_and_order():
    data = {"methods": {"lora": {"blocks": "1-2", "sizes": [0, 4, 8]}, "bitfit": {"blocks": "backbone"}}, "depth": [2]}
    space = Space.from_dict(data, 4)
    assert [(d.name, d.sizes, d.sized) for d in space.dimensions] == [
        ("lora.1", (0, 4, 8), True),
        ("lora.2", (0, 4, 8), True),
        ("bitfit", (0, 1), False),
    ]
    assert space.distributions() == {"depth.lora": (0, 0), "lora.1": (0, 2), "lora.2": (0, 2), "bitfit": (0, 1)}
    assert str(space.design([1, 2, 1])) == "bitfit | lora -,4,8"


@quick
@given(cases(), SEEDS)
def test_a_feasible_unseen_proposal_is_kept(case: Case, seed: int):
    rng = np.random.default_rng(seed)
    for design in case.feasible[:10]:
        assert case.space.project(case.space.params(design) | {"lr": 3}, rng, case.budget) == Candidate(design)


@quick
@given(cases(), SEEDS, st.data())
def test_any_proposal_gives_an_unseen_feasible_design_until_none_is_left(case: Case, seed: int, data: st.DataObject):
    rng, left, seen = np.random.default_rng(seed), {design.key for design in case.feasible}, set()
    names = st.dictionaries(st.sampled_from(sorted(case.space.distributions())), st.integers(-1, 9))
    while left and len(seen) < 12:
        design = case.space.project(data.draw(names), rng, case.budget, seen)
        assert design is not None
        left.remove(design.key)
        seen.add(design.key)
    everything = {design.key for design in case.feasible}
    assert case.space.project({}, rng, case.budget, everything) is None
    last = case.feasible[-1].key
    found = case.space.project({}, rng, case.budget, everything - {last})
    assert found is not None
    assert found.key == last


def test_a_seen_proposal_is_left_by_a_small_step():
    space, rng = NOAH.space, np.random.default_rng(0)
    design = space.sample(rng, Budget()).design
    for _ in range(20):
        other = space.project(space.params(design), rng, Budget(), {design.key})
        assert other is not None
        assert sum(a != b for a, b in zip(space.choices(design), space.choices(other.design), strict=True)) == 1


def test_the_last_design_of_a_large_space_with_a_tight_budget_is_found():
    space, rng = NOAH.space, np.random.default_rng(0)
    budget = Budget(5, cost)  # Nothing, or one prompt token at one block.
    seen: set[str] = set()
    for _ in range(13):
        design = space.project({}, rng, budget, seen)
        assert design is not None
        seen.add(design.key)
    assert space.project({}, rng, budget, seen) is None


def test_a_space_of_one_design_has_no_other():
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [4]}}}, 2)
    rng = np.random.default_rng(0)
    assert space.mutate(space.smallest, rng, Budget()) == Candidate(space.smallest)
    assert space.project({}, rng, Budget(), {space.smallest.key}) is None


@quick
@given(cases(), SEEDS)
def test_a_space_without_settings_has_designs_as_candidates(case: Case, seed: int):
    rng, keys = np.random.default_rng(seed), {design.key for design in case.feasible}
    a, b = case.space.sample(rng, case.budget), case.space.sample(rng, case.budget).design
    found = [a, case.space.mutate(a, rng, case.budget), case.space.crossover(a, b, rng, case.budget)]
    assert all(candidate.key in keys and not candidate.settings and candidate in case.space for candidate in found)
    assert {candidate.key for candidate in case.space.candidates(case.budget)} == keys


@quick
@given(cases(), settings(), SEEDS)
def test_all_ways_to_a_candidate_stay_in_the_space_and_within_the_budget(case: Case, spec: dict, seed: int):
    space = Space.from_dict(case.data | {"settings": spec}, case.depth)
    rng, keys = np.random.default_rng(seed), {design.key for design in case.feasible}
    a, b = space.sample(rng, case.budget), space.sample(rng, case.budget)
    found = [a, b, space.mutate(a, rng, case.budget), space.crossover(a, b, rng, case.budget)]
    proposal = space.project({"lr": 99, "weight_decay": -1}, rng, case.budget, {a.key, b.key})
    found += [] if proposal is None else [proposal]
    for candidate in found:
        assert candidate in space
        assert candidate.design.key in keys
        assert [name for name, _ in candidate.settings] == sorted(spec)
        assert space.of_params(space.params(candidate)) == candidate
        assert space.suggest(FixedTrial(space.params(candidate), seed % 99), case.budget) == candidate


@quick
@given(cases(), settings(), SEEDS, st.floats(0, 1))
def test_mutation_changes_a_candidate_whenever_it_can(case: Case, spec: dict, seed: int, probability: float):
    space, rng = Space.from_dict(case.data | {"settings": spec}, case.depth), np.random.default_rng(seed)
    for _ in range(5):
        start = space.sample(rng, case.budget)
        single = len(case.feasible) == 1 and all(len(s.options or (0, 1)) == 1 for s in space.settings)
        assert (space.mutate(start, rng, case.budget, probability=probability) != start) == (not single)


@quick
@given(cases(), settings(finite=True), SEEDS)
def test_a_finite_space_is_listed_and_proposed_to_its_end(case: Case, spec: dict, seed: int):
    space, rng = Space.from_dict(case.data | {"settings": spec}, case.depth), np.random.default_rng(seed)
    assert space.finite
    everything = [candidate.key for candidate in space.candidates(case.budget)]
    values = np.prod([len(values) for values in spec.values()])
    assert len(set(everything)) == len(everything) == len(case.feasible) * values
    near = space.sample(rng, case.budget)
    assert next(space.candidates(case.budget, near)) == near
    assert {candidate.key for candidate in space.candidates(case.budget, near)} == set(everything)
    last = space.project({}, rng, case.budget, everything[:-1])
    assert last is not None
    assert last.key == everything[-1]
    assert space.project({}, rng, case.budget, everything) is None


def test_a_space_with_a_continuous_setting_has_no_end():
    data = {"methods": {"lora": {"blocks": [0], "sizes": [4]}}, "settings": {"lr": {"low": 1e-4, "high": 1e-2}}}
    space, rng, seen = Space.from_dict(data, 1), np.random.default_rng(0), set()
    assert not space.finite
    assert space.count() == len(list(space.designs(Budget()))) == 1
    for _ in range(50):
        candidate = space.project({"lr": 1e-3}, rng, Budget(), seen)
        assert candidate is not None
        assert candidate.key not in seen
        seen.add(candidate.key)
    with pytest.raises(SpaceError, match="continuous setting cannot be listed"):
        next(space.candidates(Budget()))


def test_settings_are_parameters_of_a_trial_under_their_own_names():
    space = TUNED.space
    assert list(space.distributions())[-2:] == ["lr", "weight_decay"]
    assert space.distributions() | {"lr": 0, "weight_decay": 0} == NOAH.space.distributions() | {
        "lr": 0,
        "weight_decay": 0,
    }
    assert (space.distributions()["lr"], space.distributions()["weight_decay"]) == ((3e-4, 2e-2), (0, 2))
    candidate = Candidate(space.smallest, {"lr": 1e-3, "weight_decay": 0.01})
    params = space.params(candidate)
    assert (params["lr"], params["weight_decay"]) == (1e-3, 1)
    assert params.keys() == space.distributions().keys()
    assert space.of_params(params) == candidate
    assert space.of_params({"lr": 1, "weight_decay": 9}).settings == (("lr", 2e-2), ("weight_decay", 0.1))
    assert space.params(space.smallest) == NOAH.space.params(space.smallest)


def test_a_candidate_is_in_a_space_with_the_settings_of_the_space_alone():
    space, design = TUNED.space, TUNED.space.smallest
    good = Candidate(design, {"lr": 1e-3, "weight_decay": 0.1})
    assert good in space
    assert design in space
    for fault, message in [
        ({}, "the space has the settings lr, weight_decay, got none"),
        ({"lr": 1e-3}, "got lr"),
        ({"lr": 1e-3, "weight_decay": 0.1, "drop": 0}, "got drop, lr, weight_decay"),
        ({"lr": 1e-1, "weight_decay": 0.1}, r"lr is 0.1, but the space allows from 0.0003 to 0.02"),
        ({"lr": 1e-3, "weight_decay": 0.2}, r"weight_decay is 0.2, but the space allows \(0.0, 0.01, 0.1\)"),
    ]:
        candidate = Candidate(design, fault)
        assert candidate not in space
        for operation in (
            space.params,
            lambda c: space.mutate(c, np.random.default_rng(0), Budget()),
            lambda c: space.crossover(good, c, np.random.default_rng(0), Budget()),
        ):
            with pytest.raises(SpaceError, match=message):
                operation(candidate)
    assert good not in NOAH.space
    assert "lora" not in space


def test_a_setting_may_not_have_the_name_of_another_choice():
    with pytest.raises(SpaceError, match=r"'lora\.0' twice"):
        Space((Dimension("lora", 0, (0, 4)),), settings=(Choices("lora.0", (1.0,)),))
    with pytest.raises(SpaceError, match="'lr' twice"):
        Space((Dimension("lora", 0, (0, 4)),), settings=(Choices("lr", (1.0,)), Range("lr", 0, 1)))


def test_the_same_designs_are_drawn_with_and_without_settings_at_first():
    """Settings are drawn behind the design, so that a space without any is as it was before there were some."""
    rngs = np.random.default_rng(0), np.random.default_rng(0)
    assert NOAH.space.sample(rngs[0], Budget()).design == TUNED.space.sample(rngs[1], Budget()).design
    assert rngs[0].random() != rngs[1].random()


def test_children_have_each_setting_of_a_parent_and_mutants_move_it_with_the_probability():
    space, rng = TUNED.space, np.random.default_rng(0)
    a, b = (
        Candidate(space.sample(rng, Budget()).design, {"lr": lr, "weight_decay": decay})
        for lr, decay in ((1e-3, 0), (2e-3, 0.1))
    )
    children = [dict(space.crossover(a, b, rng, Budget()).settings) for _ in range(100)]
    assert {tuple(child.values()) for child in children} == {(1e-3, 0), (1e-3, 0.1), (2e-3, 0), (2e-3, 0.1)}
    for probability in (0.0, 0.3, 1.0):
        mutants = [dict(space.mutate(a, rng, Budget(), probability=probability).settings) for _ in range(300)]
        for name in ("lr", "weight_decay"):
            moved = np.mean([mutant[name] != dict(a.settings)[name] for mutant in mutants])
            assert moved == pytest.approx(probability, abs=0.08)


@pytest.mark.parametrize("case", [TUNED, FREE])
@pytest.mark.parametrize(
    "sampler",
    [RandomSampler(seed=0), TPESampler(seed=0, n_startup_trials=5), NSGAIISampler(seed=0, population_size=5)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_every_stock_sampler_draws_settings(case: Case, sampler: BaseSampler):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget = Budget(cost(case.space.largest) // 4, cost)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found = []

    def value(trial: optuna.Trial) -> float:
        found.append(case.space.suggest(trial, budget))
        return sum(dict(found[-1].settings).values())

    study.optimize(value, n_trials=20)
    assert all(candidate in case.space and budget.allows(candidate.design) for candidate in found)
    assert [trial.params for trial in study.trials] == [case.space.params(candidate) for candidate in found]
    assert len({dict(candidate.settings)["lr"] for candidate in found}) > 10


@pytest.mark.filterwarnings("ignore:.*out of.*range")
@pytest.mark.parametrize(("name", "value"), [("lr", 1.0), ("weight_decay", 3)])
def test_a_fixed_setting_outside_its_range_is_refused(name: str, value: float):
    space = TUNED.space
    params = space.params(Candidate(space.smallest, {"lr": 1e-3, "weight_decay": 0})) | {name: value}
    with pytest.raises(SpaceError, match=f"{name}={value} is not in the space; choose from"):
        space.suggest(FixedTrial(params), Budget())


def test_the_room_imports_nothing_heavy():
    folder = Path(petlas.spaces.__file__).parent
    allowed = {"petlas.errors", "petlas.petl.design", "petlas.spaces", "numpy", "yaml"}
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If) for n in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in guarded:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                for name in names:
                    known = name.split(".")[0] in sys.stdlib_module_names or name.startswith("petlas.spaces.")
                    assert known or name in allowed, f"{path.name} imports {name}"
    code = "import sys, petlas.spaces; print([m for m in ('torch', 'timm', 'ray', 'optuna') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_module_of_the_room_is_in_a_circle_of_imports_not_even_for_types():
    folder = Path(petlas.spaces.__file__).parent
    imports: dict[str, set[str]] = {}
    for path in folder.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        imports[path.stem] = {m.removeprefix("petlas.spaces.") for m in modules if m.startswith("petlas.spaces.")}
        assert "petlas.spaces" not in modules, f"{path.name}: name the module"
    free = {name for name, needs in imports.items() if not needs}
    while new := {name for name, needs in imports.items() if needs <= free} - free:
        free |= new
    assert imports.keys() == free
