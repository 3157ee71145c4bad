"""Training that can be cut off: weights and optimiser in one safetensors file, written whole after every epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from petlas.search.run_files import File

Stamp = Mapping[str, Any]
"""Everything that determines a training's numbers, as plain data: see `Workbench.stamp`."""


class Progress(NamedTuple):
    """How far a training is: epochs done, and the mean loss of the last one."""

    epochs: int
    loss: float


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_checkpoint(
    file: File, module: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress, stamp: Stamp
) -> None:
    """Write what training needs to go on.

    Args:
        file: It is replaced at once, never half written.
        module: What is trained.
        optimiser: AdamW over parameters of the module.
        progress: How far it is.
        stamp: What the training is of: `load_checkpoint` takes the file up for the same stamp only.

    Raises:
        OSError: When the file cannot be written; one that was there is left as it was.
    """
    tensors: dict[str, Tensor] = {f"weights.{name}": value for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"{key}.{name}": torch.as_tensor(moments[key]) for key in _MOMENTS if key in moments}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    file.write(save(tensors, metadata={"progress": json.dumps(progress), "stamp": _text(stamp)}))


def load_checkpoint(
    file: File, module: nn.Module, optimiser: torch.optim.Optimizer | None, stamp: Stamp
) -> Progress | None:
    """Take up a training where its last whole epoch left it.

    Args:
        file: Where it is kept.
        module: What is trained; its weights are set.
        optimiser: Its optimiser, whose moments are set; None to read the weights alone.
        stamp: What the training is of.

    Returns:
        How far it was; None, with nothing set, where there is no readable file of exactly that stamp.
    """
    data = file.read()
    about = {} if data is None else _about(data)
    if data is None or about.get("stamp") != _text(stamp):
        return None
    try:
        tensors = load(data)
    except SafetensorError:
        return None
    module.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    for name, parameter in module.named_parameters():
        if optimiser is not None and f"step.{name}" in tensors:
            moments = {key: tensors[f"{key}.{name}"] for key in _MOMENTS}
            optimiser.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in moments.items()}
    return Progress(*json.loads(about["progress"]))


def _about(data: bytes) -> dict[str, str]:
    """The text that a safetensors file holds about itself; empty where it is none.

    Its header is JSON behind eight bytes that say how long it is (the format's own README).
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except ValueError:
        return {}
    about = header.get("__metadata__") if isinstance(header, dict) else None
    return about if isinstance(about, dict) else {}


def _text(stamp: Stamp) -> str:
    return json.dumps(stamp, sort_keys=True)
