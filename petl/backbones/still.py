"""Batch norms that keep their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

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
        self._hook = norm.register_forward_hook(_lay_gradient)

    def remove(self) -> None:
        """Let it be in the mode that the model is in."""
        self._hook.remove()
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


def _lay_gradient(norm: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    """Have the gradient of a single image come as the output lies: on a CPU, torch 2.14 misreads any other."""
    if len(output) == 1 and output.requires_grad:
        output.register_hook(partial(_as_it_lies, output.stride()))


def _as_it_lies(stride: tuple[int, ...], gradient: Tensor) -> Tensor:
    return (
        gradient if gradient.stride() == stride else gradient.new_empty_strided(gradient.shape, stride).copy_(gradient)
    )


def batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """The backbone's batch norms, whatever stands on it.

    Args:
        model: The model.
    """
    for path, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and not path.startswith("petl."):
            yield module
