"""What a search would cost, before it starts: counted in R, the price of one ordinary training run, and measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petlas.petl.backbone import load_backbone
from petlas.petl.tuning import apply
from petlas.search.baselines import baselines
from petlas.search.config import RunConfig
from petlas.search.sensitivity import PARTS, budgets_of, uses_sensitivity
from petlas.search.session import Session
from petlas.search.training import open_run_task, pick_device

_MEASURED = 16  # Images in a step: enough for a figure, and quick for a large backbone on a CPU.


@dataclass(frozen=True)
class StageCost:
    """A stage of a search: how many trials, and what all of them cost at most, in R and in seconds of one worker."""

    stage: str
    trials: int
    R: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a search would cost at most.

    Args:
        designs: How many the space has, before any pruning.
        params: Trainable parameters of the smallest and the largest design, and the budget.
        flops: Operations of the backbone's forward pass on one image.
        R_seconds: One training run at full epochs, measured on this machine.
        stages: What happens one after the other.
        disk: Bytes: decoded images, and checkpoints.
    """

    designs: int
    params: dict[str, int | None]
    flops: int
    R_seconds: float
    stages: list[StageCost]
    disk: int


def plan(config: RunConfig) -> Plan:
    """What the search of a configuration would cost at most. Trials that halving stops early cost less.

    Raises:
        ConfigError, SpaceError, BackboneError, DataError: As the search itself would.
    """
    session, task = Session(config), open_run_task(config)
    images = {name: len(split) for name, split in task.splits.items()}
    forward, step, flops, pixels = _measure(session)
    train, settings = config.train, config.search
    one = train.epochs * (images["train"] * step + images["val"] * forward)  # R in seconds
    stages = []

    def add(name: str, trials: int, seconds: float) -> None:
        if trials:
            stages.append(StageCost(name, trials, round(seconds / one, 2), round(seconds, 1)))

    if uses_sensitivity(config):
        looked_at = min(images["train"], config.sensitivity.batches * config.sensitivity.batch_size)
        add("sensitivity", 1, 1.5 * looked_at * step)  # gradients of all weights, too
    seeds_first = len(PARTS) if settings.seed_designs == "sensitivity" else 0
    known = len(baselines(session.shape, session.budget.limit, session.cost)) if settings.baselines else 0
    if config.strategy == "supernet":
        own = config.supernet
        passes = 1 if own.sampling == "single" else 2 + own.random
        add("supernet", 1, own.epochs * images["train"] * step * passes)
        add("scores", settings.scores, settings.scores * images["val"] * forward)
        trained = min(settings.trials, known + settings.finalists + settings.ranking_check + seeds_first)
        add("baselines and finalists", trained, trained * one)
    elif config.strategy == "sensitivity":
        trained = min(settings.trials, known + len(budgets_of(config)) + seeds_first)
        add("baselines and sensitivity", trained, trained * one)
    else:
        add("baselines and search", settings.trials, settings.trials * one)
    seeds = config.protocol.retrain_seeds
    add("retrain", seeds, seeds * (train.epochs * images["trainval"] * step + images["test"] * forward))
    largest = session.cost(session.space.largest)
    return Plan(
        designs=session.space.count(),
        params={
            "smallest": session.cost(session.space.smallest),
            "largest": largest,
            "budget": config.budget.params,
        },
        flops=flops,
        R_seconds=round(one, 1),
        stages=stages,
        disk=pixels * (images["trainval"] + images["test"]) + 12 * largest,
    )


def _measure(session: Session) -> tuple[float, float, int, int]:
    """Seconds per image of a forward pass and of a training step, operations of a forward pass, bytes of an image."""
    config, device = session.config, pick_device()
    backbone = config.backbone
    model = load_backbone(backbone.name, pretrained=False, img_size=backbone.img_size).to(device)
    height, width = model.patch_embed.img_size
    images = torch.randn(min(_MEASURED, config.train.batch_size), 3, height, width, device=device)
    # Attention in plain products: the counter does not know the fused kernels of every CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(images[:1])
    apply(model, session.space.largest)
    labels = torch.zeros(len(images), dtype=torch.long, device=device)

    def forward() -> None:
        with torch.inference_mode():
            model.eval()(images)

    def step() -> None:
        out = model.train()(images)
        F.cross_entropy(out, labels).backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(config.resources.cpus)
    try:
        seconds = [_seconds(action, device) / len(images) for action in (forward, step)]
    finally:
        torch.set_num_threads(threads)
    return seconds[0], seconds[1], int(counter.get_total_flops()), 3 * height * width


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
