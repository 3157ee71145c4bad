"""Designs: which methods are placed where, and how large. Torch-free, so that spaces can use it anywhere."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from petlas.errors import UserError

Option = bool | int | float | str


class DesignError(UserError):
    """A design that breaks a rule: the message names the rule, the value and what to do."""


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DesignError(f"{name} must be a whole number of at least {least}, got {name}={value!r}")
    return value


def _plain(key: Any, value: Any) -> Option:
    """An option's value; whole floats become ints, so that equal values are written alike."""
    if not isinstance(key, str) or not isinstance(value, Option):
        raise DesignError(f"options must map names to plain values, got {key!r}: {value!r}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DesignError(f"options must be finite numbers, got {key}={value!r}")
        return int(value) if value.is_integer() else value
    return value


@dataclass(frozen=True)
class Placement:
    """One method at one block of the backbone, or, with `block=None`, over the whole backbone.

    Args:
        method: The method's name, such as `lora`.
        block: Block index from 0, or None for the whole backbone (stem and final norm included).
        size: The method's own size (rank, width, tokens); None for methods without one.
        options: Further settings of the method, as a mapping or as sorted pairs.

    Raises:
        DesignError: On a value of the wrong type or out of range.
    """

    method: str
    block: int | None = None
    size: int | None = None
    options: tuple[tuple[str, Option], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not self.method:
            raise DesignError(f"method must be a method's name, got method={self.method!r}")
        if self.block is not None:
            _whole("block", self.block, 0)
        if self.size is not None:
            _whole("size", self.size, 1)
        try:
            pairs = list(self.options.items() if isinstance(self.options, Mapping) else self.options)
            plain = {key: _plain(key, value) for key, value in pairs}
        except DesignError:
            raise
        except (TypeError, ValueError):
            raise DesignError(f"options must map names to plain values, got options={self.options!r}") from None
        if len(plain) != len(pairs):
            raise DesignError(f"an option can be set once, got options={self.options!r}")
        object.__setattr__(self, "options", tuple(sorted(plain.items())))

    @property
    def path(self) -> str:
        """The path of its place in the backbone: `blocks.N`, or empty for the whole backbone."""
        return "" if self.block is None else f"blocks.{self.block}"

    @property
    def _rank(self) -> tuple[str, int]:
        return self.method, -1 if self.block is None else self.block

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """The placement of a YAML entry such as `{method: lora, block: 0, size: 8}`."""
        if not isinstance(data, Mapping):
            raise DesignError(f"a placement is a mapping such as {{method: lora, block: 0, size: 8}}, got {data!r}")
        known = ("method", "block", "size", "options")
        unknown = [key for key in data if key not in known]
        if unknown or "method" not in data:
            what = f"unknown key {unknown[0]!r}" if unknown else "no 'method'"
            raise DesignError(f"a placement has {what}; its keys are {', '.join(known)}: {dict(data)!r}")
        options = data.get("options")
        if options is not None and not isinstance(options, Mapping):
            raise DesignError(f"options must be a mapping of names to values, got options={options!r}")
        return cls(data["method"], data.get("block"), data.get("size"), tuple((options or {}).items()))

    def to_dict(self) -> dict[str, Any]:
        """The placement as plain data, leaving out what it does not set."""
        data: dict[str, Any] = {"method": self.method}
        if self.block is not None:
            data["block"] = self.block
        if self.size is not None:
            data["size"] = self.size
        if self.options:
            data["options"] = dict(self.options)
        return data


_TOLD = 6
"""Sizes of as many blocks are told one by one, also where all are alike."""


@dataclass(frozen=True)
class Design:
    """A set of placements: what a search looks for. Immutable; the order of the placements does not matter.

    Args:
        placements: At most one placement of a method at a block.
        backbone: The timm name that the design was made for, if any.

    Raises:
        DesignError: When two placements claim the same place, or on a value of the wrong type.
    """

    placements: tuple[Placement, ...] = ()
    backbone: str | None = None

    def __post_init__(self) -> None:
        if self.backbone is not None and (not isinstance(self.backbone, str) or not self.backbone):
            raise DesignError(f"backbone must be a timm name, got backbone={self.backbone!r}")
        placements = tuple(self.placements)
        for placement in placements:
            if not isinstance(placement, Placement):
                raise DesignError(f"placements must be of the class Placement, got {placement!r}; see Design.from_dict")
        ordered = tuple(sorted(placements, key=lambda p: p._rank))
        object.__setattr__(self, "placements", ordered)
        for first, second in pairwise(ordered):
            if first.method == second.method and (first.block == second.block or first.block is None):
                where = "the whole backbone" if first.block is None else f"block {first.block}"
                raise DesignError(f"a method can be placed once at a place, got {first.method} twice at {where}")

    @cached_property
    def key(self) -> str:
        """A short canonical name: equal designs have equal keys, on every machine."""
        data = self.to_dict()
        for entry in data["placements"]:
            if "options" in entry:  # True == 1, so both must be written alike
                entry["options"] = {k: int(v) if isinstance(v, bool) else v for k, v in entry["options"].items()}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def by_method(self) -> dict[str, tuple[Placement, ...]]:
        """The placements of each method, in the order of the blocks."""
        groups: dict[str, tuple[Placement, ...]] = {}
        for placement in self.placements:
            groups[placement.method] = (*groups.get(placement.method, ()), placement)
        return groups

    @classmethod
    def of(cls, placements: Iterable[Placement], backbone: str | None = None) -> Design:
        """The design of any iterable of placements.

        Args:
            placements: At most one of a method at a block.
            backbone: The timm name that it was made for, if any.
        """
        return cls(tuple(placements), backbone)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Design:
        """The design of a mapping with `placements` and, optionally, `backbone`."""
        if not isinstance(data, Mapping) or set(data) - {"backbone", "placements"}:
            got = f"the keys {', '.join(map(str, data))}" if isinstance(data, Mapping) else repr(data)
            raise DesignError(f"a design is a mapping with the keys backbone and placements, got {got}")
        placements = data.get("placements")
        if placements is None:
            placements = []
        if not isinstance(placements, list | tuple):
            raise DesignError(f"placements must be a list, got placements={placements!r}")
        return cls.of((Placement.from_dict(p) for p in placements), data.get("backbone"))

    def to_dict(self) -> dict[str, Any]:
        """The design as plain data for YAML or JSON; `from_dict` gives the same design back."""
        data: dict[str, Any] = {"backbone": self.backbone} if self.backbone else {}
        return data | {"placements": [p.to_dict() for p in self.placements]}

    @classmethod
    def load(cls, path: str | Path) -> Design:
        """The design of a YAML file."""
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DesignError(f"cannot read a design from {path}: {error}") from error
        return cls.from_dict(data)

    def __str__(self) -> str:
        """One line: each method with its sizes over the blocks, `-` where absent; `lora 21 x12` is 21 at each of 12."""
        parts = []
        for method, placements in self.by_method.items():
            if placements[0].block is None:
                parts.append(method if placements[0].size is None else f"{method} {placements[0].size}")
                continue
            sizes = {p.block: "x" if p.size is None else str(p.size) for p in placements}
            last = max(b for b in sizes if b is not None)
            told = [sizes.get(b, "-") for b in range(last + 1)]
            alike = len(told) > _TOLD and len(set(told)) == 1
            parts.append(f"{method} {told[0]} x{len(told)}" if alike else f"{method} {','.join(told)}")
        return " | ".join(parts) or "linear"
