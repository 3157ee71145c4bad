"""How good a model is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from petlas.search.objectives import Objective
from petlas.search.training.batches import Batches, logits_of
from petlas.search.training.numerics import precision


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: Batches,
    objective: Objective,
    autocast: torch.dtype | None = None,
    keep: Callable[[Tensor], None] = lambda logits: None,
) -> float:
    """The objective's metric of a model on images, in evaluation mode; NaN if an output is not finite.

    Args:
        model: With a head of the objective's outputs; it is left in evaluation mode.
        data: The images.
        objective: What is measured.
        autocast: The precision; None for the model's own.
        keep: Is given the logits (B, K) of each batch, too.
    """
    model.eval()
    meter = objective.meter()
    for inputs, targets in data:
        with precision(inputs.device, autocast):
            logits = logits_of(model, inputs)
        meter.add(logits, targets)
        keep(logits)
    return meter.value()
