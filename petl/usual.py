"""One method at every block, in one call."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from petlas.petl.backbones import family_of
from petlas.petl.check import check_design, methods_of
from petlas.petl.design import Design, Option, Placement
from petlas.petl.shape import BackboneShape


def everywhere(method: str, model: nn.Module | BackboneShape, size: int | None = None, **options: Option) -> Design:
    """The usual design of one method: at every block of a backbone with one size, as `everywhere("lora", model, 8)`.

    Args:
        method: The method's name.
        model: The backbone that it is for, or its shape.
        size: The method's own size; its default where none is given.
        options: The method's own options.

    Raises:
        DesignError: When there is no such method, or it cannot be inserted into this backbone.
    """
    shape = model if isinstance(model, BackboneShape) else family_of(model).shape(model)
    (kind,) = methods_of(Design.of([Placement(method)]))
    size = kind.default_size if size is None else size
    usual = kind.baseline(shape, size)
    design = Design.of(replace(p, options=tuple((dict(p.options) | options).items())) for p in usual)
    check_design(design, shape)
    return design
