import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from petlas.search.objectives.multi_label import MultiLabel, average_precision


def measured(logits: torch.Tensor, targets: torch.Tensor, size: int = 7) -> float:
    meter = MultiLabel().meter()
    for some, of in zip(logits.split(size), targets.split(size), strict=True):
        meter.add(some, of)
    return meter.value()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20))
def test_average_precision_is_that_of_scikit_learn_with_equal_scores_too(images: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in images], float)
    positives = np.array([positive for _, positive in images])
    if positives.any():
        expected = average_precision_score(positives, scores)
        assert average_precision(scores, positives) == pytest.approx(expected, abs=1e-12)


def test_map_is_the_mean_over_the_classes_that_have_a_positive() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(60, 5), torch.rand(60, 5) < 0.3
    targets[:, 2] = False
    classes = [average_precision_score(targets[:, k].numpy(), logits[:, k].numpy()) for k in (0, 1, 3, 4)]
    assert measured(logits, targets) == pytest.approx(np.mean(classes), abs=1e-12)
    assert measured(logits, targets, size=60) == measured(logits, targets)


def test_a_perfect_ranking_is_1_and_its_contrary_the_least() -> None:
    targets = torch.tensor([[True], [True], [False], [False]])
    scores = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    assert measured(scores, targets) == 1
    assert measured(-scores, targets) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_without_any_positive_there_is_no_number() -> None:
    assert math.isnan(measured(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool)))
    assert math.isnan(MultiLabel().meter().value())


def test_the_loss_is_the_binary_cross_entropy_of_smoothed_targets() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 3, dtype=torch.double), torch.rand(6, 3) < 0.5
    for smoothing in (0.0, 0.2):
        wanted = torch.where(targets, 1 - smoothing / 2, smoothing / 2).double()
        share = 1 / (1 + (-logits).exp())
        expected = -(wanted * share.log() + (1 - wanted) * (1 - share).log()).mean()
        torch.testing.assert_close(MultiLabel().loss(logits, targets, smoothing), expected)


def test_what_is_taught_are_the_sigmoids_and_the_teacher_itself_loses_least() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    objective = MultiLabel()
    taught = objective.soften(logits)
    assert torch.equal(taught, logits.sigmoid())
    assert objective.distil(logits, taught) < objective.distil(logits + 0.3, taught)
    assert objective.distil(logits, taught) < objective.distil(logits - 0.3, taught)


def test_an_image_is_said_to_be_of_all_classes_that_are_more_likely_than_not() -> None:
    objective = MultiLabel()
    shares = objective.confidences(torch.tensor([[1.0, -1.0, 3.0], [-1.0, -2.0, -3.0]]))
    assert [name for name, _ in objective.labels(shares[0].tolist(), "abc")] == ["c", "a"]
    assert objective.labels(shares[1].tolist(), "abc") == []
