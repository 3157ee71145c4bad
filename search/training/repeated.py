"""A step that is made on one batch again and again, so that what it takes can be measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petlas.search.config import TrainConfig
from petlas.search.objectives import Objective
from petlas.search.training.batches import Inputs, logits_of
from petlas.search.training.graphs import graphs_for
from petlas.search.training.numerics import precision
from petlas.search.training.optimiser import make_optimiser


class RepeatedStep:
    """A step as trainings make it: on a GPU the second one makes its graph, and later ones are launched by it.

    Args:
        model: A backbone with a design, in training mode.
        inputs: Images (B, 3, S, S), or what stands in for them.
        targets: (B,) or (B, K).
        objective: What is learned.
        train: The settings.
        autocast: The precision.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        targets: Tensor,
        objective: Objective,
        train: TrainConfig,
        autocast: torch.dtype | None,
    ) -> None:
        self._model, self._inputs, self._targets, self._objective = model, inputs, targets, objective
        self._autocast, self._optimiser = autocast, make_optimiser(model, train)
        self._graphs = graphs_for([model], train, targets.device)

    def loss(self) -> Tensor:
        """The loss, by a forward pass."""
        with precision(self._targets.device, self._autocast):
            logits = logits_of(self._model, self._inputs)
        return self._objective.loss(logits.float(), self._targets)

    def __call__(self) -> None:
        """The whole step."""
        if self._graphs is None:
            self._gradients(self._targets)
        else:
            self._graphs(self._gradients, self._targets)
        self._optimiser.step()

    def _gradients(self, batch: Tensor) -> Tensor:
        self._optimiser.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss.detach()
