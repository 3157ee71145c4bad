"""Training: batches, schedule, precision, optimiser, learner and checkpoints.

Names are looked up when they are first used, so that `Fidelity` and `EpochResult` come without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petlas.search.training.batches import EVAL_BATCH, ImageBatches
    from petlas.search.training.checkpoint import Progress, Stamp, load_checkpoint, save_checkpoint
    from petlas.search.training.evaluation import evaluate
    from petlas.search.training.fidelity import Fidelity
    from petlas.search.training.learner import Learner
    from petlas.search.training.numerics import autocast_dtype, deterministic, full_precision, pick_device, precision
    from petlas.search.training.work import EpochResult, Work

_HOME = {
    "batches": ("EVAL_BATCH", "ImageBatches"),
    "checkpoint": ("Progress", "Stamp", "load_checkpoint", "save_checkpoint"),
    "evaluation": ("evaluate",),
    "fidelity": ("Fidelity",),
    "learner": ("Learner",),
    "numerics": ("autocast_dtype", "deterministic", "full_precision", "pick_device", "precision"),
    "work": ("EpochResult", "Work"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "EVAL_BATCH",
    "EpochResult",
    "Fidelity",
    "ImageBatches",
    "Learner",
    "Progress",
    "Stamp",
    "Work",
    "autocast_dtype",
    "deterministic",
    "evaluate",
    "full_precision",
    "load_checkpoint",
    "pick_device",
    "precision",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
