from collections.abc import Callable, Mapping
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from petlas.petl import Design
from petlas.search.samplers import SAMPLERS, make_sampler
from petlas.search.stages.proposer import Draw, Proposer
from petlas.spaces import Budget, Candidate, Space

DATA: dict[str, Any] = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}
LR = {"settings": {"lr": {"low": 3e-4, "high": 2e-2, "log": True}}}
NAMES = list(SAMPLERS)


def cost(design: Design) -> int:
    return sum(placement.size or 0 for placement in design.placements)


def proposer(name: str, data: Mapping[str, Any] = DATA, limit: int | None = None, seed: int = 0) -> Proposer:
    space, budget = Space.from_dict(data, 6), Budget(limit, cost)
    return Proposer(make_sampler(name, space, budget, seed), space, budget, ["maximize"])


def worth(candidate: Candidate) -> float:
    return cost(candidate.design) / 100 + dict(candidate.settings).get("lr", 0.0)


def trial_of(draw: Draw, system: Mapping[str, Any]) -> FrozenTrial:
    """The trial that a study keeps of a draw."""
    return create_trial(
        values=[worth(draw.candidate)],
        params=dict(draw.parameters),
        distributions=dict(draw.distributions),
        user_attrs={"key": draw.candidate.key, "number": draw.number},
        system_attrs=dict(system),
    )


def drawn(found: Proposer, count: int) -> tuple[list[Candidate], list[FrozenTrial]]:
    candidates, trials = [], []
    for _ in range(count):
        draw = found.draw()
        assert draw.place is not None
        candidates.append(draw.candidate)
        trials.append(trial_of(draw, found.tell(draw.place, TrialState.COMPLETE, [worth(draw.candidate)])))
    return candidates, trials


@pytest.mark.parametrize("data", [DATA, DATA | LR], ids=["designs", "settings"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_is_new_within_the_budget_and_named_by_its_parameters(name: str, data: dict[str, Any]) -> None:
    found = proposer(name, data, limit=9)
    space = Space.from_dict(data, 6)
    draws = []
    for _ in range(15):
        draw = found.draw()
        draws.append(draw)
        assert draw.place is not None
        found.tell(draw.place, TrialState.COMPLETE, [worth(draw.candidate)])
    assert len({draw.candidate.key for draw in draws}) == 15
    for draw in draws:
        assert draw.candidate in space
        assert cost(draw.candidate.design) <= 9
        assert draw.parameters == space.params(draw.candidate)
        assert draw.distributions.keys() == draw.parameters.keys()


@pytest.mark.parametrize("data", [DATA, DATA | LR], ids=["designs", "settings"])
@pytest.mark.parametrize("name", NAMES)
def test_one_that_learned_what_another_drew_draws_what_that_one_would_have_drawn(
    name: str, data: dict[str, Any]
) -> None:
    whole, _ = drawn(proposer(name, data), 20)
    first, trials = drawn(proposer(name, data), 14)
    again = proposer(name, data)
    again.learn(trials)
    rest, _ = drawn(again, 6)
    assert [*first, *rest] == whole


@pytest.mark.parametrize("data", [DATA, DATA | LR], ids=["designs", "settings"])
@pytest.mark.parametrize("name", NAMES)
def test_what_had_not_begun_is_drawn_again_though_later_draws_had(name: str, data: dict[str, Any]) -> None:
    found = proposer(name, data)
    first, second, third, fourth = (found.draw() for _ in range(4))
    again = proposer(name, data)
    again.learn([trial_of(third, {}), trial_of(first, {})])
    taken = again.take(fourth.candidate, fourth.number)
    assert (taken.candidate, taken.number) == (fourth.candidate, 3)
    drawn = again.draw()
    assert (drawn.candidate, drawn.number) == (second.candidate, 1)
    assert again.draw().number == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_candidate_that_is_taken_is_not_drawn_and_counts_as_drawn(name: str) -> None:
    data = {"methods": {"lora": {"blocks": [0, 1], "sizes": [0, 1]}}}
    found, space = proposer(name, data), Space.from_dict(data, 6)
    inside = next(iter(space.designs(Budget(None, cost))))
    draw = found.take(Candidate(inside))
    assert (draw.candidate.design, draw.parameters) == (inside, space.params(inside))
    others, _ = drawn(found, 3)
    assert len({inside.key, *(candidate.key for candidate in others)}) == 4
    assert found.exhausted()


@pytest.mark.parametrize("name", NAMES)
def test_one_outside_the_space_has_a_place_and_no_parameters(name: str, lora: Callable[..., Design]) -> None:
    """So that the numbers of draws are the same when the study is learned anew."""
    outside = Candidate(lora(b0=3))
    found = proposer(name)
    draw = found.take(outside)
    assert (draw.candidate, draw.place, draw.number, draw.parameters) == (outside, 0, 0, {})
    kept = trial_of(draw, found.tell(0, TrialState.COMPLETE, [0.5]))
    assert found.draw().place == 1
    again = proposer(name)
    again.learn([kept])
    other = proposer(name)
    other.take(outside)
    other.tell(0, TrialState.COMPLETE, [0.5])
    assert again.draw().candidate == other.draw().candidate


def test_values_on_the_way_and_failures_are_learned(lora: Callable[..., Design]) -> None:
    found = proposer("tpe")
    for state in (TrialState.PRUNED, TrialState.FAIL):
        draw = found.draw()
        assert draw.place is not None
        found.report(draw.place, 1, 0.5)
        found.tell(draw.place, state)
    assert found.draw().place == 2
    assert not found.exhausted()
