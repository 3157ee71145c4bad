from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from petlas.search.reckoning import reckon
from petlas.search.strategies.base import StageCost

ABOUT = {"images": {"train": 900, "val": 300}, "epochs": 10}


def trial(epochs: int, of: int = 10, stage: str = "search", state: TrialState = TrialState.PRUNED, **more: Any) -> Any:
    attributes = {"stage": stage, "of_epochs": of, "epochs": epochs, "fold": None} | more
    values = [0.5] if state == TrialState.COMPLETE else None
    return create_trial(state=state, values=values, user_attrs=attributes)


def cost(stage: str, trials: int, R: float) -> StageCost:
    return StageCost(stage, trials, R, 0.0)


def left(costs: list[StageCost], trials: list[FrozenTrial], **progress: float) -> tuple[float, float]:
    found = reckon(costs, trials, ABOUT, progress)
    return pytest.approx(found.used), pytest.approx(found.left)  # type: ignore[return-value]


def test_before_anything_it_is_the_plan() -> None:
    assert left([cost("baselines and search", 20, 20.0)], []) == (0.0, 20.0)


def test_what_halving_saves_is_expected_of_what_is_to_come() -> None:
    """Three of ten were drawn and had 2, 2 and 8 of 10 epochs: 0.4 R each, so that seven more cost 2.8."""
    ended = [trial(2), trial(2), trial(8)]
    assert left([cost("baselines and search", 10, 10.0)], ended) == (1.2, 2.8)


def test_baselines_are_trained_to_their_end_and_teach_nothing_of_what_is_stopped() -> None:
    known = [trial(10, stage="baseline", state=TrialState.COMPLETE) for _ in range(5)]
    assert left([cost("baselines and search", 10, 10.0)], known) == (5.0, 5.0)
    assert left([cost("baselines and search", 10, 10.0)], [*known, trial(1), trial(1), trial(1)]) == (5.3, 0.2)


def test_what_a_running_trial_has_spent_is_no_more_to_come() -> None:
    running = trial(4, state=TrialState.RUNNING)
    assert left([cost("baselines and search", 2, 2.0)], [running]) == (0.4, 1.6)


def test_what_was_cut_off_is_to_be_done_again() -> None:
    assert left([cost("baselines and search", 2, 2.0)], [trial(4, interrupted=True)]) == (0.0, 2.0)


def test_the_end_has_nothing_left() -> None:
    whole = [trial(10, state=TrialState.COMPLETE) for _ in range(4)]
    assert left([cost("baselines and search", 4, 4.0)], whole) == (4.0, 0.0)


def test_a_supernet_and_its_scores_count_by_what_is_done_of_them() -> None:
    costs = [cost("supernet", 1, 40.0), cost("scores", 100, 3.0), cost("baselines and finalists", 5, 5.0)]
    assert left(costs, []) == (0.0, 48.0)
    assert left(costs, [], supernet=0.25) == (10.0, 38.0)
    scores = [trial(0, of=0, stage="score", state=TrialState.COMPLETE) for _ in range(50)]
    assert left(costs, scores) == (41.5, 6.5)  # the supernet was trained before
    assert left(costs, [*scores, *scores, trial(10, stage="finalist", state=TrialState.COMPLETE)]) == (44.0, 4.0)
