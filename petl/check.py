"""What a design asks of a backbone: its methods, whether they fit together and there, and what they count."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from petlas.petl.backbones import family_of
from petlas.petl.design import Design, DesignError
from petlas.petl.methods import METHODS, get_method
from petlas.petl.parts.method import AnyMethod
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BackboneShape


def parts_of(design: Design) -> list[tuple[AnyMethod, tuple[Placed[Any], ...]]]:
    """The methods of a design, in the order in which they act, each with its placements.

    Raises:
        DesignError: On a name that is no method's, or on options that a method does not have.
    """
    return [(m, tuple(m.placed(p) for p in design.by_method[m.name])) for m in methods_of(design)]


def methods_of(design: Design) -> list[AnyMethod]:
    """The methods of a design, in the order in which they act.

    Raises:
        DesignError: On a name that is no method's.
    """
    for name in design.by_method:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(METHODS)}"
            raise DesignError(f"method must be a known method, got method={name!r}; {hint}")
    return [get_method(name) for name in METHODS if name in design.by_method]


def check_design(design: Design, shape: BackboneShape) -> None:
    """Refuse a design that cannot be inserted into a backbone of that shape.

    Args:
        design: The design.
        shape: The backbone's.

    Raises:
        DesignError: Naming the rule, the value and what to do.
    """
    methods = methods_of(design)
    for method in methods:
        if not method.combines and len(methods) > 1:
            others = ", ".join(other.name for other in methods if other is not method)
            raise DesignError(f"{method.name} stands alone in a design, got it together with {others}")
        for placement in design.by_method[method.name]:
            method.check(shape, placement)
    _check_together(methods)
    trained: dict[str, str] = {}
    for method, placements in parts_of(design):
        for path in method.paths(shape, placements):
            if path in trained:
                raise DesignError(
                    f"a parameter can be tuned by one method only, and {path} is by {trained[path]} and {method.name}; "
                    "keep one"
                )
            trained[path] = method.name


def _check_together(methods: list[AnyMethod]) -> None:
    """Refuse methods of which one makes the other useless."""
    replaced: dict[str, str] = {}
    for method in methods:
        if method.replaces is None:
            continue
        if method.replaces in replaced:
            first = replaced[method.replaces]
            raise DesignError(f"one method may replace {method.replaces}, got {first} and {method.name}; keep one")
        replaced[method.replaces] = method.name
        dead = [other.name for other in methods if other.through_backbone and other is not method]
        if dead and not method.through_backbone:
            raise DesignError(
                f"what is trained must reach the head, and {method.name} replaces {method.replaces} without passing "
                f"gradients to the backbone, got {', '.join(dead)} beside it; leave out {method.name} or the others"
            )


def count_params(design: Design, model: nn.Module | BackboneShape) -> int:
    """Trainable parameters of a design by formula, head excluded, before anything is built.

    Args:
        design: The design.
        model: The backbone that it is for, or its shape.

    Raises:
        DesignError: When the design cannot be inserted into this backbone.
    """
    shape = model if isinstance(model, BackboneShape) else family_of(model).shape(model)
    check_design(design, shape)
    return sum(method.count(shape, placements) for method, placements in parts_of(design))
