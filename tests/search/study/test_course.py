from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from study_cases import by_size, searched

from petlas.search.config import RunConfig
from petlas.search.study import HALVING, PORTFOLIO, VARIED, course

Make = Callable[..., RunConfig]


def test_the_course_of_a_search_says_what_each_rung_cost_and_changed(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make(strategy="auto", search={"cost": 6}, train={"epochs": 9, "batch_size": 200})
    record = searched(config)
    steps = course(record)
    rungs = [(step.stage, step.epochs) for step in steps]
    assert rungs == [(PORTFOLIO, 3), (VARIED, 3), (HALVING, 9)]
    assert sum(step.trials for step in steps) == len(record.trials())
    assert sum(step.R for step in steps) == pytest.approx(sum(map(record.cost, record.trials())))
    assert steps[0].before is None
    for earlier, later in pairwise(steps):
        assert later.before is not None or later.best != earlier.best
    chosen = record.best()
    assert chosen is not None
    assert steps[-1].best.key == chosen.user_attrs["key"]  # not one that was left behind, whatever is believed of it
    assert steps[-1].after == record.beliefs().of(steps[-1].best.key)


def test_a_search_without_beliefs_has_no_course(make: Make, training: Any) -> None:
    assert course(searched(make(strategy="trials", search={"trials": 2}))) == []
