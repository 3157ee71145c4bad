"""Backbones by their timm names: from the Hub, from a file, or from the one that petlas ships."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from petlas.lazy import look_up
from petlas.petl.backbones import family_of
from petlas.petl.backbones.anatomy import backbone_name
from petlas.petl.backbones.base import BackboneError
from petlas.petl.backbones.checkpoint import load_file
from petlas.petl.mini import MINIS, mini_cfg, mini_file
from petlas.petl.shape import BackboneShape

MINI = "vit_mini_patch16_64"
"""The first of the backbones inside the package; `petl/mini/MODEL_CARD.md` says what it is."""

HUB_SECONDS = 5.0
"""How long the Hub may take to answer at all."""


@dataclass(frozen=True)
class InputConfig:
    """What a backbone expects of its input images.

    Args:
        size: Side in pixels.
        mean: Of each channel, that it was pretrained with.
        std: Of each channel, that it was pretrained with.
        interpolation: How images are resized.
        crop: How much of their short side is kept of the centre; None for the whole image, squeezed into a square.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop: float | None = None


def load_backbone(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    num_classes: int = 0,
    img_size: int | None = None,
    drop_path_rate: float = 0.0,
    pretrained: bool = True,
) -> nn.Module:
    """A pretrained backbone with a fresh head.

    Args:
        name: A timm name, with or without a weight tag, or one of `MINIS`, which are part of petlas.
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
    own = name in MINIS and checkpoint is None
    from_hub = pretrained and checkpoint is None and not own
    model = _create(name, img_size=img_size, drop_path_rate=drop_path_rate, pretrained=from_hub)
    if checkpoint is not None or (own and pretrained):
        load_file(family_of(model), model, name, mini_file(name) if checkpoint is None else Path(checkpoint))
    if checkpoint is not None:
        vars(model)["checkpoint_path"] = str(Path(checkpoint).resolve())
    if num_classes:
        reset_head(model, num_classes)
    return model.eval()


def checkpoint_of(model: nn.Module) -> str | None:
    """Where the weights of a model were found; None for those of the Hub, of petlas, and of no file."""
    path: str | None = getattr(model, "checkpoint_path", None)
    return path


def licence_of(name: str) -> str | None:
    """The licence of a backbone's pretrained weights, as timm names it; None where timm does not know it.

    Args:
        name: The backbone's timm name.
    """
    known = get_pretrained_cfg(name, allow_unregistered=True)
    return None if known is None else known.license


def reset_head(model: nn.Module, num_classes: int) -> None:
    """Give the model a new linear head: weights normal with a standard deviation of 0.02, bias 0.

    Args:
        model: A backbone.
        num_classes: Outputs of the head.

    Raises:
        BackboneError: When the model carries a design, whose head would no longer be the model's.
    """
    if hasattr(model, "petl"):
        raise BackboneError("a head is set before a design is applied; call petlas.petl.remove(model) first")
    family_of(model).reset_head(model, num_classes)


def timm_recipe(name: str, img_size: int) -> tuple[str, dict[str, Any]]:
    """How plain timm makes a backbone: the architecture and its arguments, for `timm.create_model`.

    Args:
        name: As for `load_backbone`.
        img_size: Side of the input in pixels.
    """
    if mini := MINIS.get(name):
        return mini.host, dict(mini.arguments) | ({"img_size": img_size} if mini.takes_size else {})
    architecture, _, _ = name.partition(".")
    cfg = timm.get_pretrained_cfg(name)
    own = cfg.input_size[-1] if cfg is not None else None
    return architecture, {} if img_size == own or not _takes_size(name) else {"img_size": img_size}


@cache
def _takes_size(name: str) -> bool:
    """Whether timm makes a model for an image size: it makes transformers so, and convolutional networks without."""
    if name in MINIS:
        return MINIS[name].takes_size
    cfg = timm.get_pretrained_cfg(name)
    try:
        with torch.device("meta"):
            timm.create_model(name, num_classes=0, img_size=cfg.input_size[-1] if cfg else 224)
    except TypeError:
        return False
    except Exception:
        return True  # what is wrong comes out where the model is made
    return True


def _create(name: str, img_size: int | None, drop_path_rate: float, pretrained: bool = False) -> nn.Module:
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    fixed = not size or (name not in MINIS and not timm.is_model(name)) or _takes_size(name)
    if name in MINIS:
        model: nn.Module = _make_mini(name, size if fixed else {}, drop_path_rate)
    elif not timm.is_model(name):
        near = difflib.get_close_matches(name, [*MINIS, *timm.list_models("*vit*")], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models('vit_*')"
        raise BackboneError(f"backbone must be a timm model, got {name!r}; {hint}")
    else:
        more: dict[str, Any] = {"pretrained_cfg_overlay": _from_cache(name)} if pretrained else {}
        try:
            more |= {"num_classes": 0, **(size if fixed else {})}
            model = _made(name, drop_path_rate, pretrained=pretrained, **more)
        except Exception as error:
            if not pretrained or isinstance(error, AssertionError | TypeError):
                raise BackboneError(f"cannot create {name} with img_size={img_size}: {error}") from error
            raise _unfetched(name, error) from error
    family = family_of(model, name)
    if img_size is not None and not family.resize(model, img_size) and not fixed:
        raise BackboneError(
            f"{name} takes no images of that size, got img_size={img_size}; leave it out or take another"
        )
    if img_size is not None and fixed:
        patch = family.patch(model)[0]
        if img_size % patch:
            near_sizes = [n for n in (img_size // patch * patch, (img_size // patch + 1) * patch) if n]
            raise BackboneError(
                f"img_size must be a multiple of the {patch} pixels of a patch of {name}, got img_size={img_size}; "
                f"take {' or '.join(map(str, near_sizes))}"
            )
    return model


def _made(name: str, drop_path_rate: float, **arguments: Any) -> nn.Module:
    """timm's model; some have no stochastic depth that could be set to 0."""
    try:
        return timm.create_model(name, drop_path_rate=drop_path_rate, **arguments)
    except TypeError as error:
        if drop_path_rate or "drop_path_rate" not in str(error):
            raise
        return timm.create_model(name, **arguments)


def _make_mini(name: str, size: Mapping[str, Any], drop_path_rate: float) -> nn.Module:
    mini = MINIS[name]
    try:
        model: nn.Module = look_up(mini.kind)(
            **{**mini.arguments, **size}, num_classes=0, drop_path_rate=drop_path_rate
        )
    except Exception as error:
        raise BackboneError(f"cannot create {name} with img_size={size.get('img_size')}: {error}") from error
    vars(model)["pretrained_cfg"] = mini_cfg(name)
    return model


def _from_cache(name: str) -> dict[str, Any] | None:
    """What timm is to take in place of a download, where the Hub does not answer and the weights are at hand.

    The Hub's own client tries for most of a minute; this asks once.
    """
    try:
        cfg = timm.get_pretrained_cfg(name)
    except Exception:
        return None  # timm says itself what is wrong with the name
    if cfg is None or not cfg.hf_hub_id:
        return None
    repo = cfg.hf_hub_id
    try:
        huggingface_hub.get_session().head(huggingface_hub.hf_hub_url(repo, "config.json"), timeout=HUB_SECONDS)
    except Exception as error:
        repo_id = f"{repo}{name.split('.', maxsplit=1)[0]}.{cfg.tag}" if repo.endswith("/") else repo
        for file in filter(None, (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
            found = huggingface_hub.try_to_load_from_cache(repo_id, file)
            if isinstance(found, str):
                return {"file": found}
        raise _unfetched(name, error) from error
    return None


def _unfetched(name: str, error: Exception) -> BackboneError:
    cause = " ".join(str(error).split())[:200]
    return BackboneError(
        f"cannot fetch the weights of {name} from the Hub ({type(error).__name__}: {cause}); give a local file "
        "(.safetensors, .pth or .npz): backbone.checkpoint=FILE in a run, load_backbone(name, FILE) in Python; "
        f"{', '.join(MINIS)} are small and part of petlas, to try things out"
    )


def input_config(model: nn.Module) -> InputConfig:
    """Image size, statistics and interpolation of a model, as timm records them in its `pretrained_cfg`.

    Raises:
        BackboneError: When the model is of no known family, or takes images that are not square.
    """
    height, width = family_of(model).image_size(model)
    data: dict[str, Any] = resolve_model_data_config(model)
    if height != width:
        raise BackboneError(f"images are resized to a square, and {backbone_name(model)} takes {height} x {width}")
    return InputConfig(height, tuple(data["mean"]), tuple(data["std"]), data["interpolation"])


def usual_crop(model: nn.Module) -> float:
    """How much of the short side of an image timm's evaluation of a model keeps: `crop_pct` in its `pretrained_cfg`.

    Args:
        model: The backbone.
    """
    return float(resolve_model_data_config(model)["crop_pct"])


def shape_of(model: nn.Module) -> BackboneShape:
    """The sizes of a model, for formulas; whatever `apply` inserted and the head are left out.

    Raises:
        BackboneError: When the model is of no known family.
    """
    return family_of(model).shape(model)


@cache
def shape_by_name(name: str, img_size: int | None = None) -> BackboneShape:
    """The sizes of a backbone by its name, without making its weights.

    Args:
        name: As for `load_backbone`.
        img_size: Side of the input in pixels, if not the backbone's own.

    Raises:
        BackboneError: As `load_backbone` does.
    """
    with torch.device("meta"):
        return shape_of(_create(name, img_size, 0.0))


def fingerprint(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """A hash over the names and values of a state dict, to tell weights apart.

    Args:
        state: The state dict.
        dtype: Round floating-point values to this type first.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        digest.update(key.encode())
        digest.update(value.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
