"""Models that hold the same weights: none of them may change these in place."""

from __future__ import annotations

from torch import nn

_SHARED = "petl_shared"


def share_weights(model: nn.Module) -> nn.Module:
    """Note that others hold the weights of a model, too; copies of it note it as well.

    Args:
        model: The model.
    """
    vars(model)[_SHARED] = True
    return model


def hold_own_weights(model: nn.Module) -> None:
    """Where others hold a model's weights, too, give it copies of them; what a design inserted is its own already.

    Args:
        model: The model.
    """
    if not vars(model).pop(_SHARED, False):
        return
    copies: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        if path.split(".")[0] == "petl":
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in copies:
                copies[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(module, name, copies[id(parameter)])
