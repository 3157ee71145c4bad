"""What is wrong with a configuration: each fault with its path, its value and the rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petlas.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails


_LISTED = 40


class ConfigError(UserError):
    """A configuration with faults: the message lists all of them, a line each.

    Args:
        source: The file, or `command line`.
        faults: At least one.
    """

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where in the file, the value there, and the rule."""

    path: str
    value: Any
    rule: str

    def __str__(self) -> str:
        """One line, such as `train.epochs = 0: should be greater than 0`."""
        return f"{self.path} = {self.value!r}: {self.rule}"


def nearest(name: str, known: Iterable[str], otherwise: str = "known") -> str:
    """What to write instead of an unknown name.

    Args:
        name: The unknown name.
        known: The names that would have been understood.
        otherwise: What to call them where none is near.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"did you mean {near[0]}?" if near else f"{otherwise}: {', '.join(names[:_LISTED])}{more}"


def fault_of(error: ErrorDetails, root: type[BaseModel]) -> Fault:
    """A pydantic error in petlas's words, with the nearest known name for an unknown key.

    Args:
        error: One of `ValidationError.errors()`.
        root: The model that was validated.
    """
    parts = [str(part) for part in error["loc"]]
    path = ".".join(part for part in parts if not part.startswith(("function-", "dict[")) and part != "str")
    rule = error["msg"].removeprefix("Input ").removeprefix("Value error, ").replace("Field required", "is required")
    if error["type"] == "extra_forbidden":
        rule = f"unknown key; {nearest(parts[-1], _fields_at(root, error['loc'][:-1]))}"
    return Fault(path, "missing" if error["type"] == "missing" else error["input"], rule)


def _fields_at(root: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    group: Any = root
    for part in loc:
        if (field := group.model_fields.get(part)) is not None:
            group = field.annotation
    return list(group.model_fields)
