"""Placements as methods see them: checked, with a size and typed options."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Generic, TypeVar, get_type_hints

from petlas.petl.design import Option


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
