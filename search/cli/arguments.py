"""What several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from petlas.search.config import RunConfig


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


class TableFormat(StrEnum):
    """How results are printed of which there are many."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


TableFormatOption = Annotated[
    TableFormat, typer.Option("--format", "-f", help="Print a table, or JSON or CSV for other programs.")
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="Print a table, or JSON for other programs.")]
Configs = Annotated[
    list[str], typer.Argument(metavar="CONFIG... [key=value ...]", help="Configurations, and overrides for all.")
]
Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter file, or the run that has one.")]
ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LOW HIGH", help="Black and white of images of more than 8 bits, if not as in training."),
]
Checkpoint = Annotated[str | None, typer.Option(help="The backbone's weights, if they are a local file.")]
Runs = Annotated[
    list[str], typer.Argument(metavar="RUN... | DIR", help="Run folders, names in runs/, or a folder of runs.")
]
Run = Annotated[str, typer.Argument(help="A run folder, or its name in runs/.", metavar="RUN")]


def adapter_file(adapter: Path) -> Path:
    """The adapter file that an argument names: the file, or a run by its folder or its name in `runs/`."""
    run = Path("runs") / adapter
    folder = run if run.is_dir() and not adapter.exists() else adapter
    inside = folder / "best" / "adapter.safetensors"
    return inside if inside.is_file() else folder


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Configurations and `key=value` overrides; a path that exists is a configuration even with `=` in its name.

    Raises:
        BadParameter: When there is no configuration, or an override is torn apart by blanks.
    """
    overrides = [text for text in arguments if "=" in text and not _exists(text)]
    torn = [text for text in overrides if text.startswith("=")]
    if torn:
        raise typer.BadParameter(f"an override is key=value without blanks around the '=', got {' '.join(arguments)}")
    names = [text for text in arguments if text not in overrides]
    if not names:
        raise typer.BadParameter(f"at least one CONFIG is needed, got only overrides: {' '.join(overrides)}")
    return names, overrides


def load_configs(arguments: Sequence[str]) -> list[RunConfig]:
    """The checked configurations that the arguments name, each with all overrides."""
    from petlas.search import config

    names, overrides = split_arguments(arguments)
    return [found for name in names for found in config.load_configs(name, overrides)]


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a path
        return False
