"""Batch norms that keep their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Still:
    """A batch norm that stays in evaluation mode, whatever its model is set to: a frozen backbone's is no function of
    the batch, and its statistics are what they were when the design is taken off.

    Args:
        model: The model.
        norm: Its batch norm.
    """

    def __init__(self, model: nn.Module, norm: nn.Module) -> None:
        self._model, self._norm = model, norm
        norm.eval()
        vars(norm)["train"] = partial(_stay, norm)

    def remove(self) -> None:
        """Let it be in the mode that the model is in."""
        del vars(self._norm)["train"]
        self._norm.train(self._model.training)


def is_still(module: nn.Module) -> bool:
    """Whether a module is held in evaluation mode.

    Args:
        module: The module.
    """
    return "train" in vars(module)


def _stay(norm: nn.Module, mode: bool = True) -> nn.Module:
    return norm


def batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """The backbone's batch norms, whatever stands on it.

    Args:
        model: The model.
    """
    for path, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and not path.startswith("petl."):
            yield module
