"""The optimiser of every training."""

from __future__ import annotations

import torch
from torch import nn

from petlas.petl import trained_by, undecayed
from petlas.search.config import TrainConfig

LR_FACTOR = "lr_factor"
"""The entry of a parameter group that says by how much its rate is above `train.lr`."""


def make_optimiser(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over what is trainable; what is no weight of a product is not decayed.

    There is a group for each weight decay and each factor of the rate, which stands in its `lr_factor`.

    Args:
        model: A backbone with a design, which says what is decayed: see `petlas.petl.undecayed`.
        train: The settings.
    """
    free, owners = undecayed(model), trained_by(model) if train.lr_factors else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, parameter in sorted(trainable, key=lambda item: item[0] in free):  # stable: what is decayed comes first
        decay = 0.0 if name in free else train.weight_decay
        factor = train.lr_factors.get(owners.get(name, ""), 1.0)
        groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "lr": train.lr * factor, LR_FACTOR: factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=train.lr,
        foreach=True,  # in few operations on a CPU, too; fused, a CPU misreads gradients that lie otherwise
    )
