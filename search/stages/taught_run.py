"""One candidate in training that learns from other models, too: distillation (Hinton et al., 2015)."""

from __future__ import annotations

from torch import Tensor

from petlas.errors import UserError
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.training.augment import Targets
from petlas.search.training.batches import Inputs
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

SHARE = 0.5
"""What the others say counts for so much, beside the targets."""


class TaughtRun(TrainingRun):
    """A candidate that is trained on train and val, half by the targets and half by what others say of each image.

    They have seen the images as they are: augmented ones are taught the same, and mixed ones cannot be.

    Args:
        bench: The run's workbench.
        candidate: What is trained.
        fidelity: For how long, and with which seed.
        taught: (N, K) what the others' outputs came to for each image of train and val, as `Objective.soften` has it.

    Raises:
        UserError: When the run's settings mix images.
    """

    def __init__(self, bench: Workbench, candidate: Candidate, fidelity: Fidelity, taught: Tensor) -> None:
        train = bench.config.train
        for name, strength in (("mixup", train.mixup), ("cutmix", train.cutmix)):
            if strength:
                raise UserError(f"nobody can be taught images that are mixed: train.{name} must be 0, got {strength:g}")
        super().__init__(bench, candidate, fidelity, "trainval", None)
        self._taught, self._pick = taught.to(self.device), taught.new_zeros(0)

    def batch(self, pick: Tensor) -> tuple[Inputs, Targets]:
        """What a step learns from."""
        self._pick = pick
        return super().batch(pick)

    def accumulate(self, images: Inputs, targets: Targets) -> Tensor:
        """The gradients of the two losses, by their shares.

        Args:
            images: (B, 3, S, S), or what stands in for them.
            targets: (B,) or (B, K).
        """
        logits = self.forward(images)
        taught = self.objective.distil(logits, self._taught[self._pick])
        loss = (1 - SHARE) * self.loss(logits, targets) + SHARE * taught
        loss.backward()
        return loss.detach()
