"""Reading a space from its YAML."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from petlas.spaces.errors import SpaceError
from petlas.spaces.places import Stages
from petlas.spaces.space import Space


def load_space(
    source: str | Path | Mapping[str, Any],
    depth: int,
    *,
    backbone: str | None = None,
    known_methods: Collection[str] | None = None,
    known_settings: Collection[str] | None = None,
    stages: Stages = (),
) -> Space:
    """The space of a YAML file or of plain data.

    Args:
        source: The file's path, or the mapping it would hold.
        depth: The backbone's number of blocks.
        backbone: The timm name for the designs to carry.
        known_methods: The methods there are; None accepts every name.
        known_settings: The settings there are; None accepts every name.
        stages: The backbone's: blocks and width of each.

    Raises:
        SpaceError: When the file cannot be read, or listing every fault of the structure.
    """
    data = source
    if not isinstance(source, Mapping):
        try:
            data = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SpaceError(f"cannot read a space from {source}: {error}") from error
    try:
        return Space.from_dict(
            data,  # type: ignore[arg-type]  # whatever the file holds: it is checked
            depth,
            backbone=backbone,
            known_methods=known_methods,
            known_settings=known_settings,
            stages=stages,
        )
    except SpaceError as error:
        raise error if isinstance(source, Mapping) else SpaceError(f"{source}: {error}") from error
