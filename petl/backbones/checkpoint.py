"""Weights from files: whatever wraps them is taken off, and what does not belong to the architecture is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError, Family

WRAPPERS = ("teacher", "student", "target_encoder", "model", "state_dict", "module", "backbone")
"""Names under which training code keeps the weights among other things, the wanted ones first."""

MOST = 5
"""How many names a message lists."""


def load_file(family: Family, model: nn.Module, name: str, path: Path) -> None:
    """Load weights into a model; position embeddings are interpolated to its grid, and nothing else is resized.

    Understood are `.safetensors`, `.pth` with plain weights or a training state (DDP, Lightning, MoCo v3, DINO), and
    what the family reads itself, such as Google's `.npz`.

    Args:
        family: The model's.
        model: The model.
        name: What it is called in messages.
        path: The file.

    Raises:
        BackboneError: When there is no such file, or its weights are not those of this architecture.
    """
    if not path.is_file():
        raise BackboneError(f"checkpoint must be a file, and there is none at {path.absolute()}")
    own = model.state_dict()
    try:
        if family.read_other(model, path):
            _refuse_not_finite(model.state_dict(), name, path)
            return
        state = _without_prefix(_read(path), own)
        misfits = _misfits(state, own, family.recomputes)
        if not misfits:
            state = family.converted(model, state)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        cause = text if isinstance(error, BackboneError) else f"{type(error).__name__}: {text}"
        raise BackboneError(f"cannot read {path} as weights of {name}: {cause}") from error
    misfits = misfits or _misfits(state, own)
    missing = [key for key in own if key not in state]
    heads = (f"{family.head_place(model)}.", *family.other_heads)
    unexpected = [key for key in state if key not in own and not key.startswith(heads)]
    if missing or unexpected or misfits:
        listed = [
            f"  {title}: {_some(keys)}"
            for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misfits))
            if keys
        ]
        raise BackboneError(f"{path} does not hold the weights of {name}:\n" + "\n".join(listed))
    state = {key: state[key] for key in own}
    _refuse_not_finite(state, name, path)
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, without what training code wraps around them."""
    if path.suffix != ".safetensors" and not _first_bytes(path).startswith((b"PK\x03\x04", b"\x80")):
        raise BackboneError("it is no file of weights; give a .safetensors, .pth or .npz file")
    try:
        state: Any = load_state_dict(str(path), weights_only=True)
    except (AttributeError, KeyError, TypeError) as error:
        raise BackboneError("there are no named tensors in it") from error
    while isinstance(state, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = state[inner]
    if not isinstance(state, Mapping) or not state:
        raise BackboneError("there are no named tensors in it")
    return {str(key): value for key, value in state.items()}


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the model's own names, where all of them stand behind one prefix, such as `backbone.`.

    Of several prefixes under which the model is found, such as that of MoCo's momentum encoder, the first counts.
    """
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                found[".".join([*parts[:cut], ""]) if cut else ""] += 1
    best = max(found, key=found.__getitem__, default="")
    if not best or found[best] <= found[""]:
        return dict(state)
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}


def _misfits(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], resized: Callable[[str], bool] | None = None
) -> list[str]:
    """Tensors of another shape than the model's; with `resized`, before what may be resized or reshaped has been."""
    faults = []
    for key, value in own.items():
        given = state.get(key)
        if given is None or given.shape == value.shape:
            continue
        if resized is not None and (resized(key) or given.numel() == value.numel()):
            continue
        faults.append(f"{key}: {tuple(given.shape)} in the file, {tuple(value.shape)} in the model")
    return faults


def _refuse_not_finite(state: Mapping[str, Tensor], name: str, path: Path) -> None:
    spoilt = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if spoilt:
        raise BackboneError(
            f"weights must be finite numbers, and {path} has NaN or infinity in {_some(spoilt)} of {name}; "
            "get the file anew"
        )


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - MOST} more" if len(keys) > MOST else ""
    return ", ".join(keys[:MOST]) + more
