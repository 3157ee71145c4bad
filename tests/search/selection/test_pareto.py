from itertools import pairwise

from evidence_cases import EPOCHS, Case, cases, evidence, folds, whole
from hypothesis import given

from petlas.search.selection import Evidence, choose, pareto


def test_the_front_has_what_no_other_beats_in_value_and_parameters() -> None:
    found = evidence(a=whole(0.8), b=whole(0.7), c=whole(0.9), d=whole(0.9), e=whole(0.85), f=folds(1.0, 1.0))
    assert pareto(found, {"a": 2, "b": 3, "c": 5, "d": 5, "e": 4, "f": 1}) == ["a", "e", "c"]
    assert pareto(found, {"a": 2, "b": 3, "c": 5}, maximize=False) == ["a", "b"]
    assert pareto(evidence(), {}) == []


@given(cases())
def test_each_candidate_is_on_the_front_or_is_equalled_or_beaten_by_one_that_is(case: Case) -> None:
    rows, params = case
    found = Evidence.of(rows, EPOCHS)
    front = pareto(found, params)
    for key, value in found.values.items():
        assert any(params[other] <= params[key] and found.values[other] >= value for other in front)
    for less, more in pairwise(front):
        assert params[less] < params[more] and found.values[less] < found.values[more]


@given(cases())
def test_without_folds_the_choice_is_the_end_of_the_front(case: Case) -> None:
    rows, params = case
    found = Evidence.of([row for row in rows if row[1].fold is None], EPOCHS)
    front = pareto(found, params)
    assert choose(found, params) == (front[-1] if front else None)


@given(cases())
def test_the_front_does_not_depend_on_the_order_of_the_evidence(case: Case) -> None:
    rows, params = case
    assert pareto(Evidence.of(rows, EPOCHS), params) == pareto(Evidence.of(reversed(rows), EPOCHS), params)
