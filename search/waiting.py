"""Plain lines for whoever waits: after some time without any line, what is going on is said again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from petlas.search.reports.text import duration

log = logging.getLogger("petlas")

SILENCE = 20.0
"""Seconds after which something is said."""
_LOOKS_EVERY = 0.2  # of that time


class _Ear(logging.Filter):
    """Hears when the last line was said; no handler, for with one Python no longer prints warnings by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: float = max(
            (each.heard for each in _ears()), default=time.monotonic()
        )  # silence does not begin anew

    def filter(self, record: logging.LogRecord) -> bool:
        """Hear a line, and let it pass."""
        self.heard = time.monotonic()
        return True

    @property
    def innermost(self) -> bool:
        """Whether nobody else listens who knows more."""
        return _ears()[-1:] == [self]


def _ears() -> list[_Ear]:
    return [each for each in log.filters if isinstance(each, _Ear)]


@contextmanager
def never_silent(say: Callable[[], None] | None = None) -> Iterator[None]:
    """Whoever reads the lines of the log is told that work goes on, where nothing else was said for a while in here.

    Of several that are inside each other the innermost speaks.

    Args:
        say: Says it, in a thread of its own; by default that work goes on, and for how long it has. One that says
            nothing is for work that is followed elsewhere.
    """
    ear, over, began = _Ear(), threading.Event(), time.monotonic()

    def usual() -> None:
        log.info("still at work, after %s", duration(time.monotonic() - began))

    def watch() -> None:
        while not over.wait(SILENCE * _LOOKS_EVERY):
            if time.monotonic() - ear.heard >= SILENCE and ear.innermost:
                (say or usual)()
                ear.heard = time.monotonic()  # also where nobody has asked for lines

    thread = threading.Thread(target=watch, name="petlas-waiting", daemon=True)
    log.addFilter(ear)
    thread.start()
    try:
        yield
    finally:
        over.set()
        log.removeFilter(ear)
        thread.join()
        for outer in _ears():  # who was followed elsewhere is not silent only now
            outer.heard = max(outer.heard, ear.heard)
