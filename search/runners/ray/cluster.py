"""A running Ray, and the drivers that are on it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from petlas.search.runners.knock import check_address, no_cluster

_NAMESPACE, _PRESENCE = "petlas", "driver-"
_LEAST_STORE = 256 * 2**20
_STORE = 0.5
"""Of the memory that processes share."""


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of SIGTERM that raises SystemExit wherever the program is: the one of before comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def put_signals_back() -> None:
    """Set the handlers of this process anew, in its main thread: a Ray that started in another one took their place.

    Ray's own writes a stack trace of C++ on SIGTERM, and Python's table of handlers does not know of it.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


@contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """A running Ray: this process's, the cluster at `resources.address` or $RAY_ADDRESS, or one for this search.

    Args:
        address: Of a cluster, as `resources.address` gives it.

    Returns:
        Whether there may be other drivers on it.

    Raises:
        RunError: When no cluster answers.
    """
    mine, address = not ray.is_initialized(), address or os.environ.get("RAY_ADDRESS")
    if mine:
        local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": store_room()}
        if address:
            check_address(os.environ.get("RAY_ADDRESS") or address if address == "auto" else address)
        with _own_signals():
            try:
                where = {"address": address} if address else local
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **where)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
                if address is None:
                    raise
                raise no_cluster(address, str(error).strip().partition("\n")[0]) from error
    try:
        yield bool(address) or not mine
    finally:
        if mine:
            ray.shutdown()


def store_room() -> int:
    """Bytes that the object store of a Ray of this machine's own may grow to; what is not used is not taken."""
    shared = Path("/dev/shm")
    return max(_LEAST_STORE, int(_STORE * shutil.disk_usage(shared).free)) if shared.exists() else _LEAST_STORE


@ray.remote(num_cpus=0)
class Presence:
    """Is there as long as its driver is, for the others to see."""


@contextmanager
def present() -> Iterator[Callable[[], int]]:
    """Be seen by the other drivers on the cluster; how many there are, this one included."""
    own: Any = Presence  # what Ray made of it
    mine = own.options(name=f"{_PRESENCE}{uuid.uuid4().hex}", namespace=_NAMESPACE).remote()

    def count() -> int:
        named = ray.util.list_named_actors(all_namespaces=True)
        return sum(actor["namespace"] == _NAMESPACE and actor["name"].startswith(_PRESENCE) for actor in named)

    try:
        yield count
    finally:
        ray.kill(mine)
