from itertools import pairwise

import pytest

from petlas.search.strategies.ladder import Rung, ladder


def spent(rungs: tuple[Rung, ...], epochs: int) -> float:
    return sum(rung.trials * rung.epochs / epochs for rung in rungs)


@pytest.mark.parametrize("epochs", [5, 20, 50, 100])
@pytest.mark.parametrize("cost", [1.0, 2.0, 3.5, 6.0, 10.0, 24.0])
def test_the_cost_is_never_exceeded_and_nearly_used_up(cost: float, epochs: int) -> None:
    rungs = ladder(cost, epochs, lambda e: e / epochs, 10**6)
    assert cost - rungs[0].epochs / epochs < spent(rungs, epochs) <= cost + 1e-9
    assert all(a.epochs <= b.epochs for a, b in pairwise(rungs))
    assert [rung.turn for rung in rungs] == list(range(len(rungs)))
    assert rungs[-1].trials >= 2


def test_six_runs_pay_for_three_whole_trainings_and_two_for_none() -> None:
    six = ladder(6.0, 100, lambda epochs: epochs / 100, 64)
    assert [(rung.epochs, rung.trials) for rung in six] == [(34, 8), (100, 3)]
    two = ladder(2.0, 100, lambda epochs: epochs / 100, 64)
    assert [(rung.epochs, rung.trials) for rung in two] == [(34, 5)]


def test_many_trainings_of_one_length_are_halved_over_folds() -> None:
    rungs = ladder(24.0, 100, lambda epochs: epochs / 100, 10**6)
    assert [rung.trials for rung in rungs if rung.epochs == 100] == [6, 6]
    assert len({rung.turn for rung in rungs}) == len(rungs)


@pytest.mark.parametrize("trials", [1, 2, 7, 20])
def test_there_are_no_more_trials_than_are_allowed(trials: int) -> None:
    rungs = ladder(6.0, 9, lambda epochs: epochs / 9, trials)
    assert 1 <= sum(rung.trials for rung in rungs) <= trials


def test_a_cost_below_every_price_is_one_training() -> None:
    assert ladder(0.01, 100, lambda epochs: epochs / 100, 64) == (Rung(34, 0, 1),)


def test_one_epoch_is_one_rung() -> None:
    assert ladder(6.0, 1, float, 64) == (Rung(1, 0, 6),)
