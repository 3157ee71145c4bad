"""What the blocks of a backbone attend to, as it is or with a design, and the roll-out over all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import BackboneError


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The attention weights of each block as the model uses them, (B, H, N, N): rows are queries and sum to 1.

    N are the backbone's own tokens. Where a design adds tokens or keys, the weight of these is left out, and each row
    is what its own tokens have among themselves.

    Args:
        model: A backbone, with a design or without.
        images: (B, 3, H, W), normalised.

    Raises:
        BackboneError: When the blocks of the family do not attend among all tokens.
    """
    family = family_of(model)
    if family.attention is None:
        raise BackboneError(
            f"attention is shown of backbones whose blocks attend among all tokens, and {family.summary} has no "
            "such blocks; take a vision transformer"
        )
    modules: list[Any] = [block.get_submodule(family.attention) for block in family.blocks(model)]
    seen: list[Tensor] = []
    handles = [m.attn_drop.register_forward_pre_hook(partial(_see, seen)) for m in modules]
    fused, training = [m.fused_attn for m in modules], model.training
    try:
        for module in modules:
            module.fused_attn = False  # a fused kernel does not say what it attends to
        model.eval()(images)
    finally:
        model.train(training)
        for module, before, handle in zip(modules, fused, handles, strict=True):
            module.fused_attn = before
            handle.remove()
    rows, columns = family.grid(model, (images.shape[-2], images.shape[-1]))
    own = family.prefix_tokens(model) + rows * columns  # what a design adds comes behind them
    maps = [weights[..., :own, :own].float() for weights in seen]
    return [weights / weights.sum(-1, keepdim=True) for weights in maps]


def _see(seen: list[Tensor], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    seen.append(args[0])


def rollout(maps: list[Tensor]) -> Tensor:
    """How much of each input token is in each output token, (B, N, N), by attention roll-out (Abnar & Zuidema, 2020).

    The heads' mean and the shortcut count alike, and blocks are multiplied up.

    Args:
        maps: The weights of each block (B, H, N, N), as `attention_maps` gives them.
    """
    flow = torch.eye(maps[0].shape[-1], device=maps[0].device).expand(len(maps[0]), -1, -1)
    for weights in maps:
        flow = (weights.mean(1) + torch.eye(weights.shape[-1], device=weights.device)) / 2 @ flow
    return flow


def over_patches(model: nn.Module, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """What a model's output attends to, over the image: (..., N, N) to (..., rows, columns).

    It is the row of the class token, or the mean over all patches where there is none.

    Args:
        model: The backbone.
        weights: Rows of attention or of a roll-out.
        size: Height and width of the images.
    """
    family = family_of(model)
    grid, prefix = family.grid(model, size), family.prefix_tokens(model)
    row = weights[..., 0, :] if prefix else weights.mean(-2)
    shares: Tensor = row[..., prefix:].unflatten(-1, grid)
    return shares
