"""The sensitivity of the loss on a run's task to each entry of each tensor of the backbone's blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from petlas.petl import Batch, Loss, family_of, reset_head, shape_of
from petlas.petl.sensitivity import Criterion, sensitivities
from petlas.petl.shape import BackboneShape, BlockTensor, block_tensors
from petlas.search.training.numerics import deterministic

if TYPE_CHECKING:
    from petlas.search.workbench import Workbench

_HEAD_STEPS = 100
_HEAD_LR = 1e-2


def measure(bench: Workbench) -> tuple[BackboneShape, dict[BlockTensor, Tensor]]:
    """The sensitivities on a sample of the training images that is shuffled, and as even over the classes as can be.

    Images in the order of their files would be of one class, or few, wherever these are sorted by class. The model is
    in evaluation mode: with neither dropout nor drop-path, the same images give the same numbers.

    Args:
        bench: The run's workbench; its seed draws the head and the sample.

    Returns:
        The backbone's shape, and for each tensor of its blocks a value for each entry.
    """
    settings, seed = bench.config.sensitivity, bench.config.seed
    model = bench.backbone()
    torch.manual_seed(seed)
    reset_head(model, bench.objective.outputs(bench.task.num_classes))
    model.to(bench.device).eval()
    sample = bench.task.views["train"].sample(settings.batches * settings.batch_size, seed)
    batches, loss = bench.batches(sample, settings.batch_size), bench.objective.loss
    with deterministic(bench.config.train.deterministic):
        if settings.head == "warm":
            _warm_up(model, batches, loss)
        return tensor_sensitivities(model, batches, settings.criterion, loss)


def tensor_sensitivities(
    model: nn.Module, batches: Iterable[Batch], criterion: Criterion, loss: Loss
) -> tuple[BackboneShape, dict[BlockTensor, Tensor]]:
    """The model's shape, and the sensitivities of its blocks' tensors, q, k and v apart.

    Args:
        model: A model with a head.
        batches: Normalised images (B, 3, H, W) and their targets.
        criterion: What is summed.
        loss: Of what the sensitivity is.
    """
    shape = shape_of(model)
    tensors = [tensor for block in range(shape.depth) for tensor in block_tensors(shape, block)]
    paths = dict.fromkeys(tensor.path for tensor in tensors)
    found = sensitivities(model, batches, paths, loss, criterion)
    return shape, {t: found[t.path].flatten()[t.start : t.start + t.entries] for t in tensors}


def _warm_up(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> None:
    """Train the head for a few steps on features that are computed once."""
    family = family_of(model)
    head = family.head(model)
    with torch.no_grad():
        pairs = [(family.features(model, images), targets) for images, targets in batches]
    features, targets = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    optimiser = torch.optim.AdamW(head.parameters(), lr=_HEAD_LR)
    for _ in range(_HEAD_STEPS):
        optimiser.zero_grad()
        loss(head(features), targets).backward()
        optimiser.step()
    optimiser.zero_grad()


def sites_of(found: Mapping[BlockTensor, Tensor], shape: BackboneShape) -> list[dict[str, float]]:
    """For each block, the sum over each operation: a matrix or a norm with its bias, and the scale behind it.

    Args:
        found: The sensitivities, in the order of the forward pass.
        shape: The backbone's.
    """
    behind = {scale.path: scale.behind for scale in shape.scales}
    sites: list[dict[str, float]] = [{} for _ in range(shape.depth)]
    for tensor, values in found.items():
        site, operation = sites[tensor.block], behind.get(tensor.path, tensor.name.partition(".")[0])
        site[operation] = site.get(operation, 0.0) + float(values.sum())
    return sites
