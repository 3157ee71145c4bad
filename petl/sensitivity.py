"""How much the loss depends on each of the backbone's own weights."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from petlas.petl.parts.method import Batch, Loss

Criterion: TypeAlias = Literal["spt", "taylor", "fisher"]
"""`spt`: the sum over batches of the squared gradient of the batch's mean loss (SPT, He et al., 2023). `taylor`: the
loss that setting the weight to zero would cost, to first order, |sum over batches of w g| (Molchanov et al., 2019).
`fisher`: the sum over images of the squared gradient of the image's own loss, the empirical Fisher information."""


def sensitivities(
    model: nn.Module,
    batches: Iterable[Batch],
    paths: Iterable[str],
    loss: Loss,
    criterion: Criterion = "spt",
) -> dict[str, Tensor]:
    """Sensitivity of a loss to each entry of the parameters at `paths`; its shapes are the parameters'.

    The model is used in the mode in which it is, and left as it was. Gradients are taken up one parameter at a time,
    while they are computed: there is one number for each entry, and never a second copy of all gradients.

    Args:
        model: A model with a head.
        batches: Normalised images (B, 3, H, W) and their targets.
        paths: Of the parameters to look at.
        loss: Logits (B, K), in single precision, and targets to the mean loss over the batch.
        criterion: What is summed.
    """
    wanted = {path: model.get_parameter(path) for path in paths}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    sums = {path: torch.zeros_like(parameter, requires_grad=False) for path, parameter in wanted.items()}
    hooks = []
    try:
        model.requires_grad_(False)
        for path, parameter in wanted.items():
            parameter.requires_grad_(True)
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(_take_up, sums[path], criterion)))
        for images, targets in _split(batches, criterion):
            loss(model(images).float(), targets).backward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, was in trained.items():
            parameter.requires_grad_(was)
    if criterion == "taylor":
        return {path: total.abs_() for path, total in sums.items()}
    return sums


def _split(batches: Iterable[Batch], criterion: Criterion) -> Iterable[Batch]:
    """The batches as they are, or one image at a time."""
    for images, targets in batches:
        yield from (
            zip(images.split(1), targets.split(1), strict=True) if criterion == "fisher" else ((images, targets),)
        )


@torch.no_grad()
def _take_up(total: Tensor, criterion: Criterion, parameter: Tensor) -> None:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    total.addcmul_(gradient, parameter if criterion == "taylor" else gradient)
