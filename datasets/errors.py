"""The error of this room, and how names of files and classes are told in one line."""

from petlas.errors import UserError


class DataError(UserError):
    """The data is at fault; the message names the rule, the value, the place and what to do."""


def shown(name: object) -> str:
    """A name for a message: as it is, but what a line of text cannot hold (a line feed, odd bytes) is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def some(names: list[str], most: int = 3) -> str:
    """The first few of many names for a message.

    Args:
        names: One or more.
        most: How many are told before `and N more`.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
