import math

import numpy as np
import pytest

from petlas.search.selection import Measurement
from petlas.search.selection.pooling import classes_of, fold_error, images_of, mean_and_error


def test_without_classes_it_is_the_mean_and_the_standard_error_of_it() -> None:
    values = np.random.default_rng(0).normal(size=50)
    mean, error = mean_and_error(values, np.zeros(50, np.int64))
    assert (mean, error) == (pytest.approx(values.mean()), pytest.approx(values.std() / math.sqrt(50)))


def test_the_error_of_a_mean_over_classes_is_that_of_drawing_the_images_of_each_class_anew() -> None:
    rng = np.random.default_rng(0)
    counts, chances = np.array([10, 40, 150]), np.array([0.5, 0.7, 0.9])
    classes = np.repeat(np.arange(3), counts)
    drawn = (rng.random((4000, 200)) < chances[classes]).astype(float)
    means = np.mean([drawn[:, classes == k].mean(1) for k in range(3)], axis=0)
    errors = [mean_and_error(values, classes)[1] for values in drawn[:300]]
    assert np.mean(errors) == pytest.approx(means.std(), rel=0.05)
    assert mean_and_error(drawn[0], classes)[0] == pytest.approx(means[0])


def test_images_are_known_only_where_all_folds_tell_them() -> None:
    told = Measurement(0.5, 2, (True, False), (1, 0))
    assert images_of([told, told]).tolist() == [1, 0, 1, 0]  # type: ignore[union-attr]
    assert images_of([told, Measurement(0.5, 2)]) is None
    assert images_of([told, Measurement(0.5, 3, (True, False))]) is None
    assert classes_of([told, Measurement(0.5, 2)]).tolist() == [1, 0, 0, 0]


def test_the_error_of_folds_is_that_of_their_mean() -> None:
    values = [0.1, 0.3, 0.2, 0.4]
    assert fold_error(values, [50] * 4) == pytest.approx(np.std(values, ddof=1) / 2)
    assert math.isnan(fold_error([0.1], [50]))
