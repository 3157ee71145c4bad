"""What several retrained seeds of one design are worth together: told beside the single models, never instead of them.

An ensemble (Hansen & Salamon, 1990) takes the mean of the seeds' outputs and costs as many forward passes as there are
seeds; the average of their weights (Wortsman et al., "Model soups", 2022) costs one, and only pays where the seeds end
up close to each other, which modules that start at random need not. A model that the ensemble teaches (Hinton et al.,
"Distilling the Knowledge in a Neural Network", 2015) costs one more training, and nothing more afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from petlas.petl import load_adapter, save_adapter, tuned_state_dict
from petlas.search.predict import all_outputs
from petlas.search.stages.retrain import RETRAINED
from petlas.search.stages.taught_run import TaughtRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

log = logging.getLogger("petlas")


def measure_together(bench: Workbench, files: Sequence[Path]) -> dict[str, float]:
    """The metric on test of what retrained seeds are together; the caller writes down that the test split is read.

    Args:
        bench: The run's workbench.
        files: The seeds' adapter files.

    Returns:
        Of `ensemble` and `average`; without the latter where the seeds chose different weights to train.
    """
    checkpoint, total, states = bench.checkpoint, None, list[dict[str, Tensor]]()
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


def taught(bench: Workbench, candidate: Candidate, files: Sequence[Path], seed: int) -> TaughtRun:
    """One more training of a candidate on train and val, in this process: what retrained seeds say counts.

    Args:
        bench: The run's workbench.
        candidate: What the seeds are of.
        files: Their adapter files.
        seed: Of the training.

    Raises:
        UserError: When the run's settings mix images.
        RuntimeError: When the training diverges.
    """
    checkpoint, view = bench.checkpoint, bench.task.views["trainval"]
    said: list[Tensor] = []
    for file in files:
        logits = all_outputs(load_adapter(file, checkpoint=checkpoint), bench.batches(view), bench.device)
        said.append(bench.objective.soften(logits))
    run = TaughtRun(bench, candidate, Fidelity(bench.config.train.epochs, seed), torch.stack(said).mean(0))
    log.info("a training that %d seeds teach begins", len(files))
    while not run.finished:
        run.train_epoch()
    if run.diverged:
        raise RuntimeError("the training that the seeds teach diverged; lower train.lr")
    return run


def keep_taught(run: TaughtRun) -> float:
    """Test what was taught and keep its adapter file; the caller writes down that the test split is read.

    Args:
        run: The training, which is over.
    """
    bench, metric = run.bench, run.bench.objective.metric
    value = run.test()
    file = bench.config.folder / f"{RETRAINED}/{run.candidate.key}-distilled.safetensors"
    save_adapter(
        run.model,
        file,
        classes=bench.task.classes,
        score={"test": value},
        task=bench.about_task,
        kind=bench.task.kind,
        metric=metric.name,
        input=bench.inputs,
    )
    log.info("taught by the seeds: test %s, kept as %s", metric.format(value), file)
    return value


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
