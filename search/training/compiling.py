"""Whether the blocks of trainings are compiled."""

from __future__ import annotations

import logging
from functools import partial

import torch

from petlas.petl import CompiledBlocks, can_compile
from petlas.search.config import TrainConfig

log = logging.getLogger("petlas")


def compiled_blocks(train: TrainConfig, device: torch.device) -> CompiledBlocks | None:
    """What compiles blocks, as the settings say; None where they run as they are.

    Args:
        train: The settings, of which `compile` decides.
        device: Where models are.
    """
    if train.compile == "off" or (train.compile == "auto" and device.type != "cuda"):
        return None
    if not can_compile():
        log.warning("not compiled: torch %s mixes up graphs of different designs", torch.__version__)
        return None
    return CompiledBlocks(partial(log.warning, "not compiled: %s"))
