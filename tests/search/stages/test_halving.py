import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlas.search.stages.halving import Halving

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=40)
REDUCTIONS = st.integers(2, 7)


@pytest.mark.parametrize(
    ("epochs", "reduction", "grace", "rungs"),
    [
        (1, 3, None, ()),
        (2, 3, None, (1,)),
        (3, 3, None, (1,)),
        (8, 3, None, (1, 3)),
        (9, 3, None, (1, 3)),
        (10, 3, None, (2, 6)),
        (100, 3, None, (12, 36)),
        (100, 2, None, (25, 50)),
        (8, 3, 2, (2, 6)),
        (8, 2, 1, (1, 2, 4)),
        (8, 3, 8, ()),
    ],
)
def test_rungs_grow_by_the_reduction_and_end_below_the_epochs(
    epochs: int, reduction: int, grace: int | None, rungs: tuple[int, ...]
) -> None:
    assert Halving(epochs, reduction, grace).rungs == rungs


@given(st.integers(1, 500), REDUCTIONS)
def test_by_default_there_are_at_most_two_rungs_and_none_in_the_last_part(epochs: int, reduction: int) -> None:
    rungs = Halving(epochs, reduction).rungs
    assert len(rungs) <= 2
    assert all(1 <= rung < epochs for rung in rungs)
    assert epochs < 10 or rungs[-1] <= epochs / reduction + reduction


@given(VALUES, REDUCTIONS)
def test_the_best_of_a_rung_is_never_stopped(values: list[float], reduction: int) -> None:
    assert Halving(9, reduction, 1).keeps(1, max(values), values)
    assert Halving(9, reduction, 1).keeps(1, max(values), sorted(values)[:-1])


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=60), REDUCTIONS)
def test_exactly_the_best_share_goes_on(numbers: set[int], reduction: int) -> None:
    """By counting: of n different values the one with i below it goes on where i is at least (n - 1)(1 - 1/r)."""
    values = [number / 10_000 for number in sorted(numbers)]
    halving = Halving(9, reduction, 1)
    kept = [halving.keeps(1, value, values[:i] + values[i + 1 :]) for i, value in enumerate(values)]
    assert kept == [i * reduction >= (len(values) - 1) * (reduction - 1) for i in range(len(values))]


@given(VALUES, st.floats(0, 1), st.floats(0, 1), REDUCTIONS)
def test_a_better_value_is_never_treated_worse(others: list[float], a: float, b: float, reduction: int) -> None:
    halving = Halving(9, reduction, 1)
    assert halving.keeps(1, min(a, b), others) <= halving.keeps(1, max(a, b), others)


@given(VALUES, st.floats(0, 1), REDUCTIONS, st.randoms())
def test_a_resumed_search_decides_alike_since_only_recorded_values_count(
    others: list[float], value: float, reduction: int, random: object
) -> None:
    shuffled = sorted(others)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, again = Halving(9, reduction, 1), Halving(9, reduction, 1)
    assert first.keeps(1, value, others) == again.keeps(1, value, shuffled)


def test_between_rungs_and_where_nothing_is_known_every_trial_goes_on() -> None:
    halving = Halving(9, 3, 1)
    assert halving.rungs == (1, 3)
    assert all(halving.keeps(epoch, 0.0, [0.9, 0.8, 0.7]) for epoch in (2, 4, 5, 6, 7, 8, 9))
    assert not any(halving.keeps(epoch, 0.0, [0.9, 0.8, 0.7]) for epoch in (1, 3))
    assert halving.keeps(1, 0.0, [])


def test_equal_values_go_on_together() -> None:
    assert Halving(9, 3, 1).keeps(1, 0.5, [0.5] * 7)
