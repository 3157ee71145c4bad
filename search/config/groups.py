"""Groups of runs in one file: its key `group` names members, each of which sets some keys of the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

GROUP = "group"
"""A list of axes: each is `KEY: [VALUE, ...]` or a mapping `LABEL: {KEY: VALUE, ...}`. Members are all combinations."""


@dataclass(frozen=True)
class Member:
    """One run of a group.

    Args:
        name: The labels of its place on each axis.
        settings: What it sets, by dotted keys.
    """

    name: str
    settings: Mapping[str, Any]


def members(axes: Any) -> list[Member]:
    """The members of a group in the order of its axes, the last of which turns fastest.

    Raises:
        ValueError: With the rule that the group breaks.
    """
    if not isinstance(axes, list) or not axes:
        raise ValueError("must be a list of axes")
    found = [_combined(places) for places in product(*(list(_places(axis)) for axis in axes))]
    if len({member.name for member in found}) < len(found):
        raise ValueError("must give each member a name of its own")
    return found


def chosen(found: list[Member], pattern: str) -> list[Member]:
    """The members whose names match a pattern such as `dtd`, `*` or `*-16shot-*`.

    Args:
        found: All of them.
        pattern: As a shell's.
    """
    return [member for member in found if fnmatchcase(member.name, pattern)]


def _places(axis: Any) -> Iterator[Member]:
    if not isinstance(axis, dict) or not axis:
        raise ValueError("must have axes `KEY: [VALUE, ...]` or `LABEL: {KEY: VALUE, ...}`")
    for label, held in axis.items():
        if isinstance(held, list) and held and len(axis) == 1:
            yield from (Member(_tail(value), {label: value}) for value in held)
        elif isinstance(held, dict):
            yield Member(str(label), held)
        else:
            raise ValueError(f"must have axes `KEY: [VALUE, ...]` or `LABEL: {{KEY: VALUE, ...}}`, and has {label!r}")


def _tail(value: Any) -> str:
    """A value as a part of a folder's name: of a path, its last part."""
    return str(value).rstrip("/").rpartition("/")[2]


def _combined(places: tuple[Member, ...]) -> Member:
    settings = {key: value for place in places for key, value in place.settings.items()}
    return Member("-".join(place.name for place in places), settings)
