"""How much memory of a GPU the training of a run's largest design takes."""

from __future__ import annotations

import torch

from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

_CONTEXT = 600 * 2**20
"""Bytes that a process holds beside its tensors: CUDA's context, and what its libraries keep. An upper bound."""


def measure_footprint(bench: Workbench) -> tuple[int, int] | None:
    """Bytes that a process takes which trains the largest design, and bytes that the GPU has; None without a GPU.

    A step and a measured batch are done, as training does them.

    Args:
        bench: The run's workbench.
    """
    if bench.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(bench.device)
    run = TrainingRun(bench, Candidate(bench.space.largest), Fidelity(1, bench.config.seed))
    run.model.train()
    run.accumulate(*run.data.batch(slice(0, run.train.batch_size)))
    with torch.inference_mode():
        images, _ = next(iter(bench.batches(bench.task.views["val"])))
        run.model.eval()
        run.forward(images)
    total = torch.cuda.get_device_properties(bench.device).total_memory
    return torch.cuda.max_memory_reserved(bench.device) + _CONTEXT, total
