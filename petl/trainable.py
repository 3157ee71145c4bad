"""What of a tuned model is trained: told, frozen, and trained again."""

from __future__ import annotations

from collections import Counter

from torch import nn

from petlas.petl.tuning import trained_by, tuning_of


def trainable_text(model: nn.Module) -> str:
    """How many parameters are trained, by what trains them, and of how many in all.

    Args:
        model: A backbone that carries a design.

    Raises:
        DesignError: When the model carries no design.
    """
    tuning_of(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    owners, counts = trained_by(model), Counter[str]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[owners.get(name, "others")] += sizes[name]
    total, trained = sum(sizes.values()), counts.total()
    parts = ", ".join(f"{owner} {count:,}" for owner, count in counts.items()) or "nothing"
    return f"trainable: {trained:,} of {total:,} parameters ({100 * trained / max(total, 1):.2f} %): {parts}"


def print_trainable(model: nn.Module) -> None:
    """Print how many parameters are trained, by what trains them, and of how many in all.

    Args:
        model: A backbone that carries a design.

    Raises:
        DesignError: When the model carries no design.
    """
    print(trainable_text(model))


def freeze(model: nn.Module) -> nn.Module:
    """Train nothing of a tuned model, also not its design and head; `unfreeze` takes it back.

    Args:
        model: A backbone that carries a design.

    Raises:
        DesignError: When the model carries no design.
    """
    tuning_of(model)
    return model.requires_grad_(False)


def unfreeze(model: nn.Module) -> nn.Module:
    """Train the design and the head, and nothing else, as after `apply`, whatever was frozen or set free since.

    Args:
        model: A backbone that carries a design.

    Raises:
        DesignError: When the model carries no design.
    """
    tuning = tuning_of(model)
    model.requires_grad_(False)
    for parameter in tuning.parameters():
        parameter.requires_grad_(True)
    return model
