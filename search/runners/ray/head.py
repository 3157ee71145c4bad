"""The head of a cluster, without which nothing goes on there, and whether it still answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import ray

from petlas.search.runners.knock import TokenRefused, reach

_LOOKS_EVERY = 2.0
_PATIENCE = 20.0
"""Seconds that a head has to come back in, as one with a store of its own does. Ray itself ends a process whose head is
gone for 60, wherever that process is (`gcs_rpc_server_reconnect_timeout_s`)."""


class HeadLost(BaseException):
    """The head does not answer any more. No `Exception`: after one Tune tidies up, for which it would need the head.

    Args:
        address: Of the head.
    """

    def __init__(self, address: str) -> None:
        super().__init__(
            f"Ray's head at {address} does not answer any more; what is finished is kept, and no trial counts as "
            "failed: to go on, repeat the command where Ray runs"
        )


class Head:
    """The head of the cluster that this process is on; where it cannot be looked for, it is taken to be there.

    Args:
        address: Of the head.
        answers: Whether somebody answers at an address.
    """

    def __init__(self, address: str, answers: Callable[[str], bool]) -> None:
        self._address, self._answers = address, answers
        self._looked, self._seen = -math.inf, answers(address)

    @classmethod
    def of_ray(cls) -> Head:
        """That of the Ray that this process is on."""
        return cls(ray.get_runtime_context().gcs_address, _answers)

    def look(self, now: bool = False) -> bool:
        """Wait for it if it is not there.

        Args:
            now: Whether to look even if it was there a moment ago.

        Returns:
            Whether it was there.

        Raises:
            HeadLost: When it does not come back.
        """
        if not self._seen or (not now and time.monotonic() - self._looked < _LOOKS_EVERY):
            return True
        there, until = self._answers(self._address), time.monotonic() + _PATIENCE
        back = there
        while not back:
            if time.monotonic() > until:
                raise HeadLost(self._address)
            time.sleep(_LOOKS_EVERY / 4)
            back = self._answers(self._address)
        self._looked = time.monotonic()
        return there


def _answers(address: str) -> bool:
    try:
        reach(address)
    except TokenRefused:
        return True
    except OSError:
        return False
    return True
