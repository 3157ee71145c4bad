"""The stage that measures what passes take, for a plan of a run whose work is done elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petlas.files import json_bytes
from petlas.petl import apply, input_config, load_backbone, reset_head
from petlas.search.run_files import Carried
from petlas.search.stages.base import Chore, Proposal
from petlas.search.stages.once import Once
from petlas.search.training import Work
from petlas.search.training.batches import logits_of
from petlas.search.training.numerics import precision
from petlas.search.training.repeated import RepeatedStep
from petlas.search.workbench import Workbench

Prices = tuple[float, float, int, int]
"""Seconds per image of a forward pass and of a training step, operations of a forward pass, bytes of an image."""

_MEASURED = 16  # Images in a step: enough for a figure, and quick for a large backbone on a CPU.
_FILE = "measured.json"


class MeasureStage(Chore):
    """Measures once; a plan is made before there is a run, and so nothing is written into its folder.

    Args:
        bench: The run's workbench.
    """

    work = "measure"
    views = ()

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench, needed=True)
        bench.files = Carried({})

    def found(self) -> Prices:
        """What was measured."""
        forward, step, flops, pixels = json.loads(self.bench.files.read(_FILE) or b"[]")
        return forward, step, flops, pixels


def open_prices(bench: Workbench, proposal: Proposal) -> Work:
    """The measurement of what passes take.

    Args:
        bench: The run's workbench.
        proposal: Says no more than that.
    """
    return Once(lambda: bench.files.write(_FILE, json_bytes(measure(bench))))


def measure(bench: Workbench) -> Prices:
    """Measure on the device and in the precision of the run, with a step as training makes it.

    Args:
        bench: The run's workbench.
    """
    config, device, objective = bench.config, bench.device, bench.objective
    backbone = config.backbone
    model = load_backbone(backbone.name, pretrained=False, img_size=backbone.img_size).to(device)
    size, most = input_config(model).size, config.train.batch_size if device.type == "cuda" else _MEASURED
    images = torch.randn(min(most, config.train.batch_size), 3, size, size, device=device)
    # Attention in plain products: the counter does not know the fused kernels of every CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(images[:1])
    reset_head(model, objective.outputs(bench.task.num_classes))
    apply(model.to(device), bench.space.largest)
    targets = torch.tensor(bench.task.views["train"].targets[: len(images)], device=device)
    targets = targets.repeat(-(-len(images) // len(targets)), *[1] * (targets.ndim - 1))[: len(images)]

    step = RepeatedStep(model, images, targets, objective, config.train, bench.autocast)

    def forward() -> None:
        with torch.inference_mode(), precision(device, bench.autocast):
            logits_of(model, images)

    threads = torch.get_num_threads()
    torch.set_num_threads(config.resources.cpus)
    try:
        seconds = []
        for action in (forward, step):
            model.train(action is step)
            seconds.append(_seconds(action, device) / len(images))
    finally:
        torch.set_num_threads(threads)
    return seconds[0], seconds[1], int(counter.get_total_flops()), 3 * size * size


def _seconds(action: Callable[[], None], device: torch.device) -> float:
    """The quicker of two runs after one of warm-up."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
