"""Ray starts in the background, while the driver imports what it needs and checks its data, or waits for it."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

import ray  # noqa: F401 (here and not in the background: nothing that others import is then imported twice at once)

from petlas.search.runners.ray.cluster import connected

_NAME = "Ray"
_LEFT = f"{_NAME}, left"
"""What a thread is called whose Ray nobody needs any more, and which is there until that is gone."""


class Start:
    """A Ray of this search's own that begins to start in a `with` block, at whose end it is gone.

    Its workers import what they need as soon as they are there. A signal is heeded while Ray starts, which Ray itself
    does not: a Ray that is half started then ends as soon as it can, and the next one of this process waits for that.

    Args:
        address: Of a cluster to be on in its place, as `resources.address` gives it.
    """

    def __init__(self, address: str | None = None) -> None:
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # it warns that this is not the main thread
        self._address = address
        self._error: BaseException | None = None
        self._others = True
        self._before = [thread for thread in threading.enumerate() if thread.name == _LEFT]
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=_NAME, daemon=True)

    def _keep(self) -> None:
        """Start Ray, and stay: its processes end with the thread that started them (prctl(2), PR_SET_PDEATHSIG)."""
        try:
            for thread in self._before:
                thread.join()
            if self._over.is_set():
                return
            with connected(self._address) as self._others:
                self._begun.set()
                self._over.wait()
        except BaseException as error:  # told to whoever waits for it
            self._error = error
        finally:
            self._begun.set()

    def __enter__(self) -> Start:
        self._thread.start()
        return self

    def wait(self) -> bool:
        """Wait until it has started; whether there may be other drivers on it.

        Raises:
            Exception: What went wrong.
        """
        self._begun.wait()
        if self._error is not None:
            raise self._error
        return self._others

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.name = _LEFT
        interrupted = kind is not None and not issubclass(kind, Exception)
        if self._begun.is_set() or not interrupted:  # an own Ray is soon there; half started, it may keep the process
            self._thread.join()
