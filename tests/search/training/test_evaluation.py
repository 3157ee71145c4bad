import math

import numpy as np
import pytest
import torch
from torch import nn

from petlas.petl import InputConfig
from petlas.search.objectives import get_objective
from petlas.search.training import ImageBatches, evaluate

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
