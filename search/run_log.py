"""Which run a line of the log is of: it goes to that run's file alone, and on a terminal names it beside others."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

log = logging.getLogger("petlas")

ASIDE: Mapping[str, bool] = {"aside": True}
"""The `extra` of a line that is for the files of the runs, and not for a terminal."""

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_name: ContextVar[str] = ContextVar("name", default="")


@contextmanager
def about(folder: Path, name: str = "") -> Iterator[None]:
    """What is logged in here is about one run.

    Args:
        folder: The run folder.
        name: What to call the run on a terminal; empty where it is the only one.
    """
    places, names = _folder.set(folder), _name.set(name)
    try:
        yield
    finally:
        _folder.reset(places)
        _name.reset(names)


class Naming(logging.Formatter):
    """Names the run that a line is about, where there are several."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, behind the run's name."""
        line, name = super().format(record), _name.get()
        return f"{name}: {line}" if name else line


def for_terminal(record: logging.LogRecord) -> bool:
    """Whether a line is for a terminal, too.

    Args:
        record: The line.
    """
    return not getattr(record, "aside", False)


@contextmanager
def printing() -> Iterator[None]:
    """In a notebook or another interactive session that set up no logging, what is logged in here is printed."""
    if log.hasHandlers() or not _interactive():
        yield
        return
    handler, level = logging.StreamHandler(sys.stdout), log.level
    handler.setFormatter(Naming("%(message)s"))
    handler.addFilter(for_terminal)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _interactive() -> bool:
    shell = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (shell is not None and shell.get_ipython() is not None)


@contextmanager
def logging_to(path: Path, first: Sequence[str] = ()) -> Iterator[None]:
    """Append what is logged about the run of a folder, or about no run alone, to a file in it.

    Args:
        path: The file.
        first: Lines that it begins with, and that no one else is told.
    """
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for line in first:
        handler.handle(logging.LogRecord(log.name, logging.INFO, __file__, 0, line, None, None))
    handler.addFilter(lambda record: _folder.get() in (None, path.parent))
    level = log.level
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))  # a program that set up no logging still gets its log
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
