"""Backbones: timm vision transformers, loaded from the Hub, from a file, or from the one that petlas ships."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models import load_state_dict
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from petlas.petl.shape import BackboneShape, Layer

MINI = "vit_mini_patch16_64"
"""The backbone inside the package; `petl/mini/MODEL_CARD.md` says what it is."""

_MINI_FILE = Path(__file__).parent / "mini" / f"{MINI}.safetensors"
_MINI_ARGS: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 128, "depth": 6, "num_heads": 4}
_MINI_CFG = {
    "architecture": MINI,
    "input_size": (3, 64, 64),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


class BackboneError(ValueError):
    """A backbone that cannot be made or loaded: the message says why and what to do."""


@dataclass(frozen=True)
class InputConfig:
    """What a backbone expects of its input images: side in pixels, and the statistics it was pretrained with."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


def load_backbone(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    num_classes: int = 0,
    img_size: int | None = None,
    drop_path_rate: float = 0.0,
    pretrained: bool = True,
) -> VisionTransformer:
    """A pretrained vision transformer with a fresh head.

    Args:
        name: A timm name, with or without a weight tag, or `vit_mini_patch16_64`, which is part of petlas.
        checkpoint: Weights in a `.safetensors`, `.pth` or Google `.npz` file; by default timm's from the Hub.
        num_classes: Outputs of the head; 0 for no head.
        img_size: Side of the input in pixels, if not the backbone's own: position embeddings are interpolated.
        drop_path_rate: Stochastic depth at the last block, rising linearly from 0 at the first.
        pretrained: False for random weights.

    Returns:
        The model in evaluation mode.

    Raises:
        BackboneError: On an unknown name, an unsupported architecture, or weights that do not fit.
    """
    if checkpoint is None and pretrained and name == MINI:
        checkpoint = _MINI_FILE
    from_hub = pretrained and checkpoint is None
    model = _create(name, img_size=img_size, drop_path_rate=drop_path_rate, pretrained=from_hub)
    if checkpoint is not None:
        _load_file(model, name, Path(checkpoint))
    if num_classes:
        reset_head(model, num_classes)
    return model.eval()


def reset_head(model: VisionTransformer, num_classes: int) -> None:
    """Give the model a new linear head: weights normal with a standard deviation of 0.02, bias 0.

    Raises:
        BackboneError: When the model carries a design, whose head would no longer be the model's.
    """
    if hasattr(model, "petl"):
        raise BackboneError("a head is set before a design is applied; call petlas.petl.remove(model) first")
    model.reset_classifier(num_classes)
    nn.init.trunc_normal_(model.get_parameter("head.weight"), std=0.02)
    nn.init.zeros_(model.get_parameter("head.bias"))


def _create(name: str, img_size: int | None, drop_path_rate: float, pretrained: bool = False) -> VisionTransformer:
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    if name == MINI:
        mini = VisionTransformer(**(_MINI_ARGS | size), num_classes=0, drop_path_rate=drop_path_rate)
        mini.pretrained_cfg = dict(_MINI_CFG)  # type: ignore[assignment]
        return mini
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [MINI, *timm.list_models("*vit*")], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models('vit_*')"
        raise BackboneError(f"backbone must be a timm model, got {name!r}; {hint}")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path_rate, **size)
    except Exception as error:
        if not pretrained or isinstance(error, AssertionError | TypeError):
            raise BackboneError(f"cannot create {name} with img_size={img_size}: {error}") from error
        raise BackboneError(
            f"cannot fetch the weights of {name} from the Hub ({type(error).__name__}: {error}); "
            "give a local file with checkpoint=... (.safetensors, .pth or .npz)"
        ) from error
    return _plain_vit(model, name)


def _plain_vit(model: nn.Module, name: str) -> VisionTransformer:
    """The model itself, if it is what methods expect: a patch embedding, pre-norm blocks, one head."""
    blocks = list(model.blocks) if isinstance(model, VisionTransformer) else []
    if not (
        isinstance(model, VisionTransformer)
        and isinstance(model.patch_embed, PatchEmbed)
        and not hasattr(model, "head_dist")
        and all(isinstance(b, Block) and isinstance(b.attn, Attention) and hasattr(b.mlp, "fc1") for b in blocks)
        and all(isinstance(b.norm1, nn.LayerNorm) for b in blocks)
    ):
        raise BackboneError(
            f"backbone must be a plain pre-norm timm VisionTransformer, and {name} is a {type(model).__name__} "
            "with another stem, other blocks or a second head; take a vit_*, deit_* or *_dinov2 model"
        )
    return model


def _load_file(model: VisionTransformer, name: str, path: Path) -> None:
    if not path.is_file():
        raise BackboneError(f"checkpoint must be a file, and there is none at {path}")
    try:
        if path.suffix == ".npz":
            model.load_pretrained(str(path))
            return
        state = checkpoint_filter_fn(load_state_dict(str(path), weights_only=True), model)
    except Exception as error:
        raise BackboneError(f"cannot read {path} as weights of {name}: {type(error).__name__}: {error}") from error
    own = model.state_dict()
    misshapen = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own and not key.startswith(("head.", "head_dist."))]
    if missing or unexpected or misshapen:
        listed = [f"  {title}: {', '.join(keys)}" for title, keys in
                  (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen)) if keys]  # fmt: skip
        raise BackboneError(f"{path} does not hold the weights of {name}:\n" + "\n".join(listed))
    model.load_state_dict({key: state[key] for key in own})


def input_config(model: nn.Module) -> InputConfig:
    """Image size, statistics and interpolation of a model, as timm records them in its `pretrained_cfg`."""
    data: dict[str, Any] = resolve_model_data_config(model)
    height, width = _plain_vit(model, backbone_name(model)).patch_embed.img_size
    if height != width:
        raise BackboneError(f"images are resized to a square, and {backbone_name(model)} takes {height} x {width}")
    return InputConfig(height, tuple(data["mean"]), tuple(data["std"]), data["interpolation"])


def backbone_name(model: nn.Module) -> str:
    """The timm name of a model, with its weight tag if it has one."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    name, tag = cfg.get("architecture") or type(model).__name__, cfg.get("tag")
    return f"{name}.{tag}" if tag else str(name)


def shape_of(model: nn.Module) -> BackboneShape:
    """The sizes of a model, for formulas; whatever `apply` inserted and the head are left out.

    Raises:
        BackboneError: When the model is no plain vision transformer of timm.
    """
    model = _plain_vit(model, backbone_name(model))
    layers: list[Layer] = []
    for path, module in model.named_modules():
        if path.startswith(("petl.", "head", "attn_pool.")):
            continue
        if isinstance(module, nn.Linear):
            layers.append(Layer(path, "linear", module.in_features, module.out_features, module.bias is not None))
        elif isinstance(module, nn.Conv2d):
            layers.append(Layer(path, "conv", module.in_channels, module.out_channels, module.bias is not None))
        elif getattr(module, "weight", None) is not None and "norm" in path.rsplit(".", 1)[-1]:
            channels = len(module.weight)
            layers.append(Layer(path, "norm", channels, channels, getattr(module, "bias", None) is not None))
    return BackboneShape(
        name=backbone_name(model),
        width=model.embed_dim,
        depth=len(model.blocks),
        patch=model.patch_embed.patch_size,
        grid=model.patch_embed.grid_size,
        prefix_tokens=model.num_prefix_tokens,
        layer_scale=any(hasattr(block.ls1, "gamma") for block in model.blocks),
        layers=tuple(layers),
        params=sum(p.numel() for path, p in model.named_parameters() if not path.startswith(("petl.", "head."))),
    )


@cache
def shape_by_name(name: str, img_size: int | None = None) -> BackboneShape:
    """The sizes of a backbone by its name, without making its weights.

    Raises:
        BackboneError: As `load_backbone` does.
    """
    with torch.device("meta"):
        return shape_of(_create(name, img_size, 0.0))


def fingerprint(state: dict[str, Tensor]) -> str:
    """A hash over the names and values of a state dict, to tell weights apart."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
