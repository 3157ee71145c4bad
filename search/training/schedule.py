"""The learning rate over a training. Torch-free."""

from __future__ import annotations

import math

from petlas.search.config import TrainConfig


def lr_factor(step: int, train: TrainConfig, steps: int) -> float:
    """The share of the peak at a step: linear warm-up, then a cosine to 1%.

    Args:
        step: The step's number from 0, over all epochs.
        train: The settings: epochs, and how many of them warm up.
        steps: Of an epoch.
    """
    warmup, total = train.warmup_epochs * steps, train.epochs * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
