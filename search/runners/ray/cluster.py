"""A running Ray, and the drivers that are on it."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from petlas.search.run_folder import RunError
from petlas.search.runners.knock import check_address, mode_kept, no_cluster

_NAMESPACE, _PRESENCE = "petlas", "driver-"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LIBC = ctypes.CDLL(None)
_ENOUGH = 1024
"""More bytes than a `struct sigaction` has on any system."""
_LEAST_STORE = 256 * 2**20
_STORE = 0.5
"""Of the memory that processes share."""


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM and SIGINT over, and writes a stack trace of C++: the handlers of before come back.

    Both those of the process, which any thread may set, and what Python knows of them, which its main thread may.
    """
    actions = [(number, _action(number)) for number in _SIGNALS]
    handlers = [(number, signal.getsignal(number)) for number in _SIGNALS]
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers:
                if handler is not None:
                    signal.signal(number, handler)
        for number, action in actions:
            _LIBC.sigaction(number, action, None)


def _action(number: signal.Signals) -> ctypes.Array[ctypes.c_char]:
    """What the process does on a signal: a `struct sigaction` (sigaction(2))."""
    action = ctypes.create_string_buffer(_ENOUGH)
    _LIBC.sigaction(number, None, action)
    return action


@contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """A running Ray: this process's, the cluster at `resources.address` or $RAY_ADDRESS, or one for this search.

    Args:
        address: Of a cluster, as `resources.address` gives it.

    Returns:
        Whether there may be other drivers on it.

    Raises:
        RunError: When no cluster answers, or Ray does not start here.
    """
    if ray.is_initialized():
        yield True
        return
    address = address or os.environ.get("RAY_ADDRESS")
    with mode_kept():
        _connect(address)
        try:
            yield bool(address)
        finally:
            ray.shutdown()


def _connect(address: str | None) -> None:
    local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": store_room()}
    if address:
        check_address(os.environ.get("RAY_ADDRESS") or address if address == "auto" else address)
    with _own_signals():
        try:
            where = {"address": address} if address else local
            # What fails is raised; Ray's own words for it are for its developers.
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=True, **where)
        except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            why = str(error).strip().partition("\n")[0]
            if address is not None:
                raise no_cluster(address, why) from error
            raise RunError(
                f"Ray must be able to start on this machine, and did not ({why}); it needs a HOME and a /tmp that it "
                "can write, or resources.runner=inline does without it, one trial at a time"
            ) from error


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
