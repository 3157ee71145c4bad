"""The families of backbones. To add one: write its file, and add its line here."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from torch import nn

    from petlas.petl.backbones.base import Family

FAMILIES: dict[str, str] = {
    "vit": "petlas.petl.backbones.vit:ViT",
    "eva": "petlas.petl.backbones.eva:Eva",
    "beit": "petlas.petl.backbones.eva:Beit",
    "swin": "petlas.petl.backbones.swin:Swin",
    "convnext": "petlas.petl.backbones.convnext:ConvNeXt",
    "resnet": "petlas.petl.backbones.resnet:ResNet",
    "resnet_clip": "petlas.petl.backbones.resnet:ClipResNet",
    "efficientnet": "petlas.petl.backbones.efficientnet:EfficientNet",
    "swinv2": "petlas.petl.backbones.swin:SwinV2",
    "generic": "petlas.petl.backbones.generic:Generic",
}


@cache
def _family(home: str) -> Family:
    family: Family = look_up(home)()
    return family


def get_family(name: str) -> Family:
    """The family of that name; its file is imported when it is first asked for.

    Raises:
        KeyError: When no family has that name.
    """
    return _family(FAMILIES[name])


def family_of(model: nn.Module, name: str | None = None) -> Family:
    """The family that a model belongs to; one that takes what is left is asked last.

    Args:
        model: The model.
        name: What it is called in the message; by default its timm name.

    Raises:
        BackboneError: When it belongs to none.
    """
    from petlas.petl.backbones.anatomy import backbone_name
    from petlas.petl.backbones.base import BackboneError

    if (known := getattr(getattr(model, "petl", None), "family", None)) is not None:
        return get_family(known)  # a design does not change it
    reasons = []
    for family in sorted(map(get_family, FAMILIES), key=lambda family: family.fallback):
        reason = family.why_not(model)
        if reason is None:
            return family
        reasons.append(reason)
    *others, last = (get_family(name).summary for name in FAMILIES)
    known = f"{', '.join(others)} or {last}"
    why = next(filter(None, reasons), "")
    hint = f" with {why}; take one without" if why else "; take a vit_*, swin*, convnext* or another model of timm"
    given = f"{name or backbone_name(model)} is a {type(model).__name__}"
    raise BackboneError(f"backbone must be {known}, and {given}{hint}")


__all__ = ["FAMILIES", "family_of", "get_family"]
