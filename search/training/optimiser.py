"""The optimiser of every training."""

from __future__ import annotations

import torch
from torch import nn

from petlas.petl import undecayed
from petlas.search.config import TrainConfig


def make_optimiser(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over what is trainable; what is no weight of a product is not decayed.

    Args:
        model: A backbone with a design, which says what is decayed: see `petlas.petl.undecayed`.
        train: The settings.
    """
    free = undecayed(model)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if name not in free]
    plain = [p for name, p in named if name in free]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=train.lr)
