"""Candidates: a design and how it is trained, which is what a trial tries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from petlas.petl.design import Design, DesignError
from petlas.spaces.errors import SpaceError
from petlas.spaces.settings import number


@dataclass(frozen=True)
class Candidate:
    """A design with its settings. Immutable; the order of the settings does not matter.

    Args:
        design: What is inserted.
        settings: How it is trained where that differs from the run's `train`, as a mapping or as pairs.

    Raises:
        SpaceError: On a design of the wrong type, or settings that are no finite numbers under different names.
    """

    design: Design
    settings: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.design, Design):
            raise SpaceError(f"a candidate's design must be of the class Design, got {self.design!r}")
        try:
            pairs = list(self.settings.items() if isinstance(self.settings, Mapping) else self.settings)
            plain = {name: _setting(name, value) for name, value in pairs}
        except SpaceError:
            raise
        except (TypeError, ValueError):
            raise SpaceError(f"settings must map names to numbers, got settings={self.settings!r}") from None
        if len(plain) != len(pairs):
            raise SpaceError(f"a setting can be set once, got settings={self.settings!r}")
        object.__setattr__(self, "settings", tuple(sorted(plain.items())))

    @cached_property
    def key(self) -> str:
        """A short canonical name: equal candidates have equal keys, on every machine; the design's without settings."""
        if not self.settings:
            return self.design.key
        text = json.dumps([self.design.key, dict(self.settings)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The candidate of a design's mapping that may have `settings`, such as `{lr: 3e-3}`.

        Raises:
            SpaceError: When the settings break a rule.
            DesignError: When the design does.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(f"a candidate is a mapping with the keys backbone, placements and settings, got {data!r}")
        settings = data.get("settings")
        if settings is not None and not isinstance(settings, Mapping):
            raise SpaceError(f"settings must be a mapping such as {{lr: 3e-3}}, got settings={settings!r}")
        design = Design.from_dict({key: value for key, value in data.items() if key != "settings"})
        return cls(design, tuple((settings or {}).items()))

    def with_settings(self, settings: Mapping[str, float]) -> Candidate:
        """The same design with other values of some settings.

        Args:
            settings: By their names.

        Raises:
            SpaceError: When one is no finite number.
        """
        return Candidate(self.design, tuple({**dict(self.settings), **settings}.items()))

    def to_dict(self) -> dict[str, Any]:
        """The candidate as plain data for YAML or JSON; `from_dict` gives the same candidate back."""
        return self.design.to_dict() | ({"settings": dict(self.settings)} if self.settings else {})

    @classmethod
    def load(cls, path: str | Path) -> Candidate:
        """The candidate of a YAML file.

        Raises:
            SpaceError: When the file cannot be read, or the settings break a rule.
            DesignError: When the design does.
        """
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SpaceError(f"cannot read a candidate from {path}: {error}") from error
        try:
            return cls.from_dict(data)
        except (DesignError, SpaceError) as error:
            raise type(error)(f"{path}: {error}; best/design.yaml of a run shows one") from error

    def __str__(self) -> str:
        """One line: the design, then the settings."""
        return " | ".join([str(self.design), *(f"{name} {value:.4g}" for name, value in self.settings)])


def _setting(name: Any, value: Any) -> float:
    if not isinstance(name, str) or not name:
        raise SpaceError(f"settings must map names to numbers, got {name!r}: {value!r}")
    try:
        return number(value)
    except SpaceError as error:
        raise SpaceError(f"settings.{name}: {error}") from None
