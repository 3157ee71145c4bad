"""Placements as methods see them: checked, with a size and typed options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Generic, TypeVar, get_type_hints

from petlas.petl.design import DesignError, Option, Placement


@dataclass(frozen=True)
class NoOptions:
    """The options of a method without any."""


OptionsT = TypeVar("OptionsT")
"""The dataclass of a method's options."""


def whole(default: int, least: int = 1) -> int:
    """The field of an option that is a whole number.

    Args:
        default: Its default.
        least: The smallest value that it may have.
    """
    declared: int = field(default=default, metadata={"least": least})
    return declared


@cache
def declared(option_type: type[Any]) -> tuple[dict[str, Any], dict[str, Option | None], dict[str, int]]:
    """The types of a dataclass's options, their defaults, and the smallest values of those that are whole numbers."""
    options = fields(option_type)
    defaults: dict[str, Any] = {option.name: option.default for option in options}
    least = {option.name: option.metadata["least"] for option in options if "least" in option.metadata}
    return get_type_hints(option_type), defaults, least


def typed_options(method: str, option_type: type[OptionsT], given: Iterable[tuple[str, Option]]) -> OptionsT:
    """The options of a placement, of the types that its method declares.

    Args:
        method: The method's name.
        option_type: The dataclass of its options.
        given: What the placement sets.

    Raises:
        DesignError: On an option that the method does not have, or of another type.
    """
    kinds, defaults, least = declared(option_type)  # type: ignore[arg-type]  # a class can be hashed
    own = dict(given)
    for key, value in own.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise DesignError(f"{method} has no option {key!r} (value {value!r}); its options: {known}")
        kind = type(defaults[key])
        named = kind in (bool, str)
        fits = isinstance(value, kind) if named else isinstance(value, int | float) and not isinstance(value, bool)
        if not fits:
            wanted = kind.__name__ if named else "number"
            raise DesignError(f"option {key} of {method} must be a {wanted}, got {key}={value!r}")
        if key in ("dropout", "drop_path") and not 0 <= float(value) < 1:
            raise DesignError(f"option {key} of {method} must be in [0, 1), got {key}={value!r}")
        if key in least and (not isinstance(value, int) or value < least[key]):
            raise DesignError(
                f"option {key} of {method} must be a whole number of at least {least[key]}, got {key}={value!r}"
            )
        own[key] = float(value) if kinds[key] in (float, float | None) else value
    make: Callable[..., OptionsT] = option_type
    return make(**own)


def with_option(placement: Placement, name: str, value: float) -> Placement:
    """A placement with an option in place of what it sets itself.

    Args:
        placement: Any.
        name: Of the option.
        value: What it is set to.
    """
    return replace(placement, options=tuple((dict(placement.options) | {name: value}).items()))


def usual_number(method: str, options: Mapping[str, Option | None], name: str) -> float:
    """The default of an option that is a number, and may be set for a whole method.

    Args:
        method: The method's name.
        options: All of its options, with their defaults.
        name: Of the option.

    Raises:
        DesignError: When there is no such option.
    """
    usual = options.get(name)
    if not isinstance(usual, int | float) or isinstance(usual, bool):
        known = ", ".join(options) or "none"
        raise DesignError(f"{method} has no {name} to set; its options: {known}; leave out {name}.{method}")
    return float(usual)


@dataclass(frozen=True)
class Placed(Generic[OptionsT]):
    """A placement as a method sees it: checked, with its size and all of its options.

    Args:
        place: The block's index; None for the whole backbone.
        size: The method's own size; 0 for a method without one.
        options: What the placement sets, and the method's defaults.
    """

    place: int | None
    size: int
    options: OptionsT

    @property
    def block(self) -> int:
        """The block's index, for a method that is placed at blocks."""
        if self.place is None:
            raise TypeError("a placement over the whole backbone has no block")
        return self.place

    @property
    def path(self) -> str:
        """The name of its place in adapter files: `blocks.N`, or empty for the whole backbone."""
        return "" if self.place is None else f"blocks.{self.place}"
