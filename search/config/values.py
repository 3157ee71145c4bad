"""What single values of a configuration may be, and what they mean however YAML reads them."""

from __future__ import annotations

import difflib
import os
import unicodedata
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

_LONGEST_NAME = 255
"""Bytes in a folder's name on the file systems there are."""


def number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; everything else that is no number stays wrong.

    Args:
        value: What YAML read.
    """
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if type(value) is int else value


def _named(value: Any) -> Any:
    """`task: digits` is short for `task: {name: digits}`."""
    return {"name": value} if isinstance(value, str) else value


def _folder_name(value: str) -> str:
    """A run's name is its folder's: any text that can be one and that can be read in a list."""
    unreadable = any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value)
    if value in ("", ".", "..") or "/" in value or unreadable or value != value.strip():
        rule = "without slashes, line breaks, control characters and blanks at its ends"
        raise ValueError(f"must be a plain folder name, {rule}; set the place with runs=FOLDER")
    if len(value.encode()) > _LONGEST_NAME:
        raise ValueError(f"must be a folder name of at most {_LONGEST_NAME} bytes, and has {len(value.encode())}")
    return value


def _database(value: str) -> str:
    """A database; a file of SQLite's is found again from another working directory."""
    if "://" not in value:
        raise ValueError("must be a database URL such as postgresql://user:password@host/name")
    kind, of_file, path = value.partition("sqlite:///")
    relative = of_file and not kind and path and path[0] not in "/:"
    return f"{of_file}{Path(path).absolute()}" if relative else value


def here() -> str:
    """The working directory, as long as it is there."""
    try:
        return os.getcwd()
    except OSError:
        return "."


def _path(value: str) -> str:
    if "\0" in value:
        raise ValueError("must be text without a zero byte")
    return value


def one_of(module: str, registry: str) -> AfterValidator:
    """Accepts the names of a registry, which is imported when a name is checked.

    Args:
        module: The registry's.
        registry: What it is called there.
    """

    def check(value: str) -> str:
        known = list(getattr(import_module(module), registry))
        if value not in known:
            *first, last = map(repr, known)
            near = difflib.get_close_matches(value, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"must be {', '.join(first)} or {last}{hint}")
        return value

    return AfterValidator(check)


def _off(value: Any) -> Any:
    """YAML 1.1 reads off as False."""
    return "off" if value is False else value


def _switch(value: Any) -> Any:
    """And on as True."""
    return "on" if value is True else _off(value)


Number = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, AfterValidator(_path)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
Database = Annotated[str, AfterValidator(_database)]
NAMED, OFF, SWITCH = BeforeValidator(_named), BeforeValidator(_off), BeforeValidator(_switch)
"""What may be said in short: a group by its name, a switch by YAML's own words."""
