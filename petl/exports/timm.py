"""Plain timm weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from torch import nn

from petlas.files import write_json
from petlas.petl.adapter_file import AdapterInfo
from petlas.petl.backbones import family_of
from petlas.petl.backbones.load import timm_recipe
from petlas.petl.exports.base import Loaded, Target, merged_if_possible, unmergeable
from petlas.petl.exports.errors import ExportError


class Timm(Target):
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` takes, as the Hub's are.

    It holds the merged weights, `model.safetensors`, and `config.json`, with the classes' names and what timm's
    transforms need to prepare images as petlas does.
    """

    name = "timm"

    def write(self, model: nn.Module, info: AdapterInfo, path: Path) -> None:
        """Fold the design into the weights; a design that cannot be is refused."""
        if fixed := unmergeable(model):
            raise ExportError(
                f"plain timm weights hold merged designs only, and {', '.join(fixed)} cannot be merged; "
                "export to onnx or torchscript, which keep the design inside"
            )
        plain = merged_if_possible(model)
        state = {name: value.detach().contiguous().clone() for name, value in plain.state_dict().items()}
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        write_json(path / "config.json", _config(plain, info))

    def load(self, path: Path, backbone: Callable[[], nn.Module]) -> Loaded:
        """By timm alone."""
        model: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True)
        return model.eval()


def _config(model: nn.Module, info: AdapterInfo) -> dict[str, Any]:
    architecture, arguments = timm_recipe(info.backbone, info.input.size)
    outputs, known = len(info.classes), getattr(model, "pretrained_cfg", None) or {}
    prepared = {
        "input_size": [3, info.input.size, info.input.size],
        "mean": list(info.input.mean),
        "std": list(info.input.std),
        "interpolation": info.input.interpolation,
        "crop_pct": info.input.crop or 1.0,
        "crop_mode": "squash" if info.input.crop is None else "center",
    }
    places = {key: known[key] for key in ("first_conv", "classifier", "license") if known.get(key)}
    return {
        "architecture": architecture,
        "num_classes": outputs,
        "label_names": list(info.classes),
        "model_args": arguments,
        "pretrained_cfg": {"tag": "petlas", "custom_load": False, "num_classes": outputs}
        | {"classifier": family_of(model).head_place(model)}
        | places
        | prepared,
    }
