"""The error of a space, and the nearest known name for its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from petlas.errors import UserError


class SpaceError(UserError):
    """A space, a budget or a choice that breaks a rule: the message names the rule, the value and what to do."""


def nearest(name: object, known: Iterable[str]) -> str:
    """What to write instead of an unknown name.

    Args:
        name: The unknown name.
        known: The names that would have been understood.

    Returns:
        `did you mean 'lora'?` where a known name is near, else the list of known names.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"
