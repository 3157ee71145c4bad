"""Ray's notices of what became of nodes and workers: they go to the runs' logs, and not to standard output."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from petlas.search.run_log import ASIDE

log = logging.getLogger("petlas")

_LISTENER = "ray_listen_error_messages"
"""The thread in which Ray prints them, whatever `log_to_driver` says."""
_FRAME = re.compile(r"(\x1b\[\d+m)*\(raylet\)(\x1b\[\d+m)* ")


@contextmanager
def notices_to_log() -> Iterator[None]:
    """What Ray has to say of its own goes to the logs of the runs alone: the runs tell what it means for them.

    Ray would print it among what the command prints, with the last lines of a raylet's log.
    """
    before, apart = sys.stdout, _Apart(sys.stdout)
    sys.stdout = apart
    try:
        yield
    finally:
        if sys.stdout is apart:  # and not what others put in its place, who have it in theirs
            sys.stdout = before


class _Apart:
    """A stream without what Ray's thread writes to it.

    Args:
        stream: Everything else goes there.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or log."""
        if threading.current_thread().name != _LISTENER:
            return self._stream.write(text)
        if said := _FRAME.sub("", text).strip():
            log.info("Ray: %s", said, extra=ASIDE)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
