"""What several retrained seeds of one design are worth together: told beside the single models, never instead of them.

An ensemble (Hansen & Salamon, 1990) takes the mean of the seeds' outputs and costs as many forward passes as there are
seeds; the average of their weights (Wortsman et al., "Model soups", 2022) costs one, and only pays where the seeds end
up close to each other, which modules that start at random need not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from petlas.petl import load_adapter, tuned_state_dict
from petlas.search.predict import all_outputs
from petlas.search.workbench import Workbench

log = logging.getLogger("petlas")


def measure_together(bench: Workbench, files: Sequence[Path]) -> dict[str, float]:
    """The metric on test of what retrained seeds are together; the caller writes down that the test split is read.

    Args:
        bench: The run's workbench.
        files: The seeds' adapter files.

    Returns:
        Of `ensemble` and `average`; without the latter where the seeds chose different weights to train.
    """
    checkpoint, total, states = bench.config.backbone.checkpoint, None, list[dict[str, Tensor]]()
    test = bench.task.views["test"]
    targets = torch.tensor(test.targets)
    for file in files:
        model = load_adapter(file, checkpoint=checkpoint)
        outputs = all_outputs(model, bench.batches(test), bench.device)
        total = outputs if total is None else total + outputs
        states.append({name: value.detach().cpu().clone() for name, value in tuned_state_dict(model).items()})
    assert total is not None, "there are seeds"
    found = {"ensemble": _value(bench, total / len(files), targets)}
    mean = _mean(states)
    if mean is not None:
        own = tuned_state_dict(model)
        with torch.no_grad():
            for name, weights in mean.items():
                own[name].copy_(weights)
        found["average"] = _value(bench, all_outputs(model, bench.batches(test), bench.device), targets)
    metric, count = bench.objective.metric, len(files)
    for name, value in found.items():
        log.info("%d seeds together, %-9s test %s", count, f"{name}:", metric.format(value))
    return found


def _value(bench: Workbench, outputs: Tensor, targets: Tensor) -> float:
    meter = bench.objective.meter()
    meter.add(outputs, targets)
    return meter.value()


def _mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
    """The mean of tuned values; None where what is no number, such as which weights are trained, differs."""
    first, mean = states[0], dict[str, Tensor]()
    for name, value in first.items():
        if value.is_floating_point():
            mean[name] = torch.stack([state[name] for state in states]).mean(0)
        elif any(not torch.equal(value, state[name]) for state in states):
            return None
    return mean
