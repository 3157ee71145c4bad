"""A limit of time for what may hang."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_GRACE = 10.0
"""Seconds in which a process that was told to stop may do so."""


class TookTooLong(RuntimeError):
    """A trial was not done in time."""


def too_long(seconds: float) -> str:
    """What to say of a trial that was not done in time."""
    return f"a trial may take resources.trial_timeout={seconds:g} s, and this one was not done by then"


class Limit:
    """The time that a trial may take, from now on.

    Args:
        seconds: The limit; None for none.
        end_process: Whether the process may be ended, if nothing else helps.
    """

    def __init__(self, seconds: float | None, end_process: bool = False) -> None:
        self._seconds, self._end_process = seconds, end_process
        self._start = time.perf_counter()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """What is done in here raises `TookTooLong` when the time is up.

        Python raises it between two of its own steps. What hangs in foreign code never comes to one: there only the
        end of the process helps. Outside the main thread, or on a system without alarms, there is no other help.
        """
        if self._seconds is None:
            yield
            return
        left = max(self._seconds - (time.perf_counter() - self._start), 1e-3)
        alarm = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if self._end_process:
            faulthandler.dump_traceback_later(left + _GRACE, exit=True)
        before = signal.signal(signal.SIGALRM, self._stop) if alarm else None
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, left)
        try:
            yield
        finally:
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            if self._end_process:
                faulthandler.cancel_dump_traceback_later()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        assert self._seconds is not None
        raise TookTooLong(too_long(self._seconds))
