import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from petlas.petl import InputConfig
from petlas.search.objectives import get_objective
from petlas.search.selection.bits import unpack_bits
from petlas.search.training import ImageBatches, evaluate
from petlas.search.training.evaluation import Right

CPU = torch.device("cpu")
INPUTS = InputConfig(2, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2), "bicubic")


class FirstPixel(nn.Module):
    """Its class is the sign of the first pixel; in training mode always 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, 0, 0, 0] * (not self.training)
        return torch.stack([-first, first], dim=1)


@pytest.mark.parametrize("count", [1, 7, 256, 300, 512])
def test_evaluate_gives_the_accuracy_of_a_loop_over_single_images(count: int) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 3, 2, 2), dtype=np.uint8)
    labels = rng.integers(0, 2, count)
    model = FirstPixel().train()
    correct = sum((image[0, 0, 0] / 255 > INPUTS.mean[0]) == label for image, label in zip(images, labels, strict=True))
    data = ImageBatches(images, labels, INPUTS, CPU)
    assert evaluate(model, data, get_objective("single_label")) == correct / count


@pytest.mark.parametrize("metric", ["accuracy", "mean_per_class"])
def test_which_images_are_told_right_is_said_in_the_order_of_the_view(metric: str) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 3, 2, 2), dtype=np.uint8), rng.integers(0, 2, 50)
    objective = get_objective("single_label", metric)
    right = Right(objective, labels)
    value = evaluate(FirstPixel(), ImageBatches(images, labels, INPUTS, CPU, size=16), objective, keep=right)
    single = (images[:, 0, 0, 0] / 255 > INPUTS.mean[0]) == labels
    assert unpack_bits(right.packed(), 50) == tuple(single.tolist())
    said = np.where(single, labels, 1 - labels)
    assert value == pytest.approx(single.mean() if metric == "accuracy" else balanced_accuracy_score(labels, said))


def test_a_metric_that_ranks_images_says_of_none_whether_it_is_right() -> None:
    targets = np.eye(2, dtype=bool)
    right, objective = Right(get_objective("multi_label"), targets), get_objective("multi_label")
    evaluate(FirstPixel(), ImageBatches(np.zeros((2, 3, 2, 2), np.uint8), targets, INPUTS, CPU), objective, keep=right)
    assert right.packed() == ""


def test_several_labels_are_measured_by_their_own_metric() -> None:
    images = np.zeros((4, 3, 2, 2), np.uint8)
    images[:, 0, 0, 0] = [10, 200, 100, 250]
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
    data = ImageBatches(images, targets, INPUTS, CPU, size=3)
    assert evaluate(FirstPixel(), data, get_objective("multi_label")) == 1.0


def test_outputs_that_are_not_finite_have_no_accuracy() -> None:
    class Blown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[math.nan, 0.0]]).expand(len(x), 2)

    data = ImageBatches(np.zeros((3, 3, 2, 2), np.uint8), np.zeros(3, int), INPUTS, CPU)
    assert math.isnan(evaluate(Blown(), data, get_objective("single_label")))
