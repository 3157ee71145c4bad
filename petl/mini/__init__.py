"""The backbones that petlas ships: what they are made of, and where their weights are. Cards lie beside these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INPUT = {
    "input_size": (3, 64, 64),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


@dataclass(frozen=True)
class Mini:
    """A backbone of petlas's own.

    Args:
        kind: Its class, as `module:Class`.
        host: An architecture of timm's that is of the same class.
        arguments: Of the class; those of `create_model` come before the host's own.
    """

    kind: str
    host: str
    arguments: Mapping[str, Any]

    @property
    def takes_size(self) -> bool:
        """Whether it is made for an image size."""
        return "img_size" in self.arguments


MINIS = {
    "vit_mini_patch16_64": Mini(
        "timm.models.vision_transformer:VisionTransformer",
        "vit_tiny_patch16_224",
        {"img_size": 64, "patch_size": 16, "embed_dim": 128, "depth": 6, "num_heads": 4},
    ),
    "swin_mini_patch4_64": Mini(
        "timm.models.swin_transformer:SwinTransformer",
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "window_size": 4, "embed_dim": 32, "depths": (1, 1, 4), "num_heads": (2, 4, 8)},
    ),
    "convnext_mini_64": Mini(
        "timm.models.convnext:ConvNeXt",
        "convnext_tiny",
        {"dims": (32, 64, 128, 192), "depths": (1, 1, 3, 1)},
    ),
}
"""By their names."""


def mini_file(name: str) -> Path:
    """Where the weights of one lie.

    Args:
        name: Of the backbone.
    """
    return Path(__file__).parent / f"{name}.safetensors"


def mini_cfg(name: str) -> dict[str, Any]:
    """What timm is to know of one, as its `pretrained_cfg`.

    Args:
        name: Of the backbone.
    """
    return {"architecture": name, **_INPUT}
