import numpy as np
import pytest

from petlas.search.selection.changes import Changes


def test_a_setting_counts_by_where_it_lies_between_its_least_and_its_largest_value() -> None:
    changes = Changes([{"shift": 0.0}, {"shift": 0.02}, {"shift": 0.08}, {}])
    assert changes.untold == pytest.approx(np.array([0.0, 0.25, 1.0, 0.0]) * changes.untold[2])
    spreads = np.sqrt(np.diag(changes.covariance))
    assert spreads == pytest.approx(np.array([0.0, 0.25, 1.0, 0.0]) * spreads[2])
    assert changes.settles[1, 2] == pytest.approx(0.25 * changes.settles[2, 2])


def test_what_changed_images_may_be_worth_is_said_of_both_at_once_and_all_that_is_likely_adds_up() -> None:
    changes = Changes([{"shift": 0.0, "hflip": 0.0}, {"shift": 0.08, "hflip": 0.0}, {"shift": 0.08, "hflip": 0.5}])
    chances, worths = (np.array(part) for part in zip(*changes.expected(), strict=True))
    assert (worths[:, 0] == 0).all()
    moved, mirrored = worths[:, 1], worths[:, 2] - worths[:, 1]
    assert (moved > 0.1).any()
    assert min(moved.min(), mirrored.min()) < -0.3
    assert (chances @ moved) / chances.sum() > (chances @ mirrored) / chances.sum()  # what is recorded of usual tasks
    assert len({*zip(moved.round(6).tolist(), mirrored.round(6).tolist(), strict=True)}) == len(chances)


def test_of_other_settings_nothing_is_expected_and_without_any_there_is_nothing() -> None:
    other = Changes([{"weight_decay": 1e-4}, {"weight_decay": 1e-2}])
    assert [(chance, worth.tolist()) for chance, worth in other.expected()] == [(1.0, [0.0, 0.0])]
    assert (other.untold == 0).all()
    assert 0 < other.covariance[1, 1] < Changes([{"shift": 0.0}, {"shift": 0.08}]).covariance[1, 1]
    for none in (Changes([{}, {}]), Changes([{"shift": 0.08}, {"shift": 0.08}])):  # or nothing that differs
        assert [(chance, worth.tolist()) for chance, worth in none.expected()] == [(1, [0.0, 0.0])]
        assert (none.covariance == 0).all()
        assert (none.untold == 0).all()
