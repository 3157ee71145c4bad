"""Training: batches, schedule, precision, optimiser, learner and checkpoints.

Names are looked up when they are first used, so that `Fidelity` and `EpochResult` come without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petlas.lazy import offered

if TYPE_CHECKING:
    from petlas.search.training.batches import EVAL_BATCH, ImageBatches, Inputs, logits_of
    from petlas.search.training.checkpoint import Progress, Stamp, load_checkpoint, save_checkpoint
    from petlas.search.training.evaluation import evaluate
    from petlas.search.training.fidelity import Fidelity
    from petlas.search.training.learner import Learner
    from petlas.search.training.numerics import (
        autocast_dtype,
        deterministic,
        device_name,
        full_precision,
        pick_device,
        precision,
    )
    from petlas.search.training.pack import PackTraining
    from petlas.search.training.work import EpochResult, Work

_HOME = {
    "batches": ("EVAL_BATCH", "ImageBatches", "Inputs", "logits_of"),
    "checkpoint": ("Progress", "Stamp", "load_checkpoint", "save_checkpoint"),
    "evaluation": ("evaluate",),
    "fidelity": ("Fidelity",),
    "learner": ("Learner",),
    "numerics": ("autocast_dtype", "deterministic", "device_name", "full_precision", "pick_device", "precision"),
    "pack": ("PackTraining",),
    "work": ("EpochResult", "Work"),
}

__all__ = [
    "EVAL_BATCH",
    "EpochResult",
    "Fidelity",
    "ImageBatches",
    "Inputs",
    "Learner",
    "PackTraining",
    "Progress",
    "Stamp",
    "Work",
    "autocast_dtype",
    "deterministic",
    "device_name",
    "evaluate",
    "full_precision",
    "load_checkpoint",
    "logits_of",
    "pick_device",
    "precision",
    "save_checkpoint",
]


__getattr__ = offered(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
