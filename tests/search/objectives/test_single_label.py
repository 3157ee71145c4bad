import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score

from petlas.search.objectives.single_label import SingleLabel


@pytest.fixture
def outputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(50, 4), torch.randint(3, (50,))  # no image is of the last class


def measured(metric: str, logits: torch.Tensor, targets: torch.Tensor) -> float:
    meter = SingleLabel(metric).meter()
    for some, of in zip(logits.split(7), targets.split(7), strict=True):
        meter.add(some, of)
    return meter.value()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_smoothed_cross_entropy_bit_for_bit(
    outputs: tuple[torch.Tensor, torch.Tensor], smoothing: float
) -> None:
    logits, targets = outputs
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert torch.equal(SingleLabel().loss(logits, targets, smoothing), expected)


def test_what_is_taught_are_the_probabilities(outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, _ = outputs
    taught = SingleLabel().soften(logits.flip(0))
    assert torch.equal(taught, logits.flip(0).softmax(dim=1))
    assert torch.equal(SingleLabel().distil(logits, taught), F.cross_entropy(logits, taught))


def test_accuracy_is_the_share_of_right_images(outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = outputs
    right = sum(int(row.argmax()) == int(target) for row, target in zip(logits, targets, strict=True))
    assert measured("accuracy", logits, targets) == right / 50


def test_mean_per_class_is_the_balanced_accuracy_of_scikit_learn(outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = outputs
    truth, said = targets.numpy(), logits.argmax(1).numpy()
    with pytest.warns(UserWarning):  # that a class was predicted which no image is of
        expected = balanced_accuracy_score(truth, said)
    assert measured("mean_per_class", logits, targets) == pytest.approx(expected, abs=1e-12)


def test_mean_per_class_counts_rare_classes_like_frequent_ones() -> None:
    logits = F.one_hot(torch.zeros(10, dtype=torch.long), 2).float()
    targets = torch.tensor([0] * 9 + [1])
    assert measured("accuracy", logits, targets) == 0.9
    assert measured("mean_per_class", logits, targets) == 0.5


@pytest.mark.parametrize("metric", ["accuracy", "mean_per_class"])
def test_nothing_measured_is_no_number(metric: str) -> None:
    assert math.isnan(SingleLabel(metric).meter().value())


def test_an_image_is_said_to_be_of_its_surest_class() -> None:
    objective = SingleLabel()
    shares = objective.confidences(torch.tensor([[0.0, 2.0, 1.0]]))
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert objective.labels(shares[0].tolist(), "abc") == [("b", shares[0, 1].item())]
