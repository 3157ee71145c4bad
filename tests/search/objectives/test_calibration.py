import pytest

from petlas.search.objectives.calibration import BINS, calibration_of, share


def test_confidences_that_are_what_they_say_have_no_error() -> None:
    found = calibration_of([0.8] * 10, [True] * 8 + [False] * 2)
    assert found.ece == pytest.approx(0)
    (full,) = [one for one in found.bins if one.count]
    assert (full.count, full.right) == (10, 0.8)
    assert full.low < 0.8 <= full.high
    assert len(found.bins) == BINS


def test_the_error_is_the_mean_distance_of_what_is_said_and_what_is_right() -> None:
    found = calibration_of([1.0, 1.0, 0.6, 0.6], [True, False, True, True])
    assert found.ece == pytest.approx(0.5 * 0.5 + 0.5 * 0.4)
    assert found.bins[-1].count == 2
    assert calibration_of([0.0], [False]).bins[0].count == 1


def test_a_share_of_nothing_is_none() -> None:
    assert share(1, 4) == 0.25
    assert share(0, 0) is None
