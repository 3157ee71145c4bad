"""How good a model is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from petlas.search.objectives import Objective
from petlas.search.selection.bits import pack_bits
from petlas.search.training.batches import Batches, logits_of
from petlas.search.training.numerics import precision


def nothing(logits: Tensor) -> None:
    """Let logits be.

    Args:
        logits: (B, K).
    """


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: Batches,
    objective: Objective,
    autocast: torch.dtype | None = None,
    keep: Callable[[Tensor], None] = nothing,
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


class Right:
    """Takes in the logits of a view's images in their order, and says which of them are told right.

    Args:
        objective: Which says so.
        targets: Of the view, as it holds them.
    """

    def __init__(self, objective: Objective, targets: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> None:
        self._objective, self._targets = objective, torch.from_numpy(np.array(targets))
        self._seen, self._found = 0, list[Tensor]()

    def __call__(self, logits: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, K).
        """
        own = self._targets[self._seen : self._seen + len(logits)].to(logits.device)
        self._seen += len(logits)
        found = self._objective.right(logits, own)
        if found is not None:
            self._found.append(found)

    def packed(self) -> str:
        """A bit for each image; nothing where the objective does not say so."""
        return pack_bits(torch.cat(self._found).cpu().numpy()) if self._found else ""
