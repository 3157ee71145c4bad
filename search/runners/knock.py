"""Who answers at an address, told at once: Ray itself goes on trying for minutes where nobody does. Knows no Ray.

Ray's servers speak gRPC over HTTP/2 (RFC 9113): they answer its opening words with a frame of their settings, and a
call with a status, which is that of a token where they ask for one and get none or another.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from petlas.search.run_folder import RunError

TOKEN, TOKEN_PATH, MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"
"""Variables of the environment by which Ray finds its token, and is told whether to use it."""

uses_token = threading.Event()
"""Set once Ray uses a token in this process: then it does until the process ends, whatever the environment says."""
_ANEW = (
    "Ray keeps to that as long as a process is there: start Python anew (of a notebook, the kernel), and search there"
)

_SETTINGS, _HEADERS, _DATA = 4, 1, 0
"""Kinds of frames."""
_ENDS_HEADERS, _ENDS_STREAM = 4, 1
_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_STATUS, _REFUSED = b"grpc-status", b"InvalidAuthToken"
_MOST = 2**16  # bytes of an answer
_WAITS = 3.0  # seconds


class TokenRefused(Exception):
    """A cluster asks for a token, and for another one than is here."""


def check_address(address: str) -> None:
    """Let a place where no cluster answers, or one that asks for another token, be told at once.

    Args:
        address: Such as `HOST:PORT`, `ray://HOST:PORT` or `auto`; words that only Ray knows pass.

    Raises:
        RunError: When nobody answers there, or in another way.
    """
    named, address = address, (_current() or address) if address == "auto" else address
    try:
        asks = _asks_for_token(address)
    except (OSError, OverflowError) as error:
        raise no_cluster(named, str(error) if named == address else f"{address}: {error}") from error
    mode, token = os.environ.get(MODE, "").lower(), find_token()
    if asks is False:
        if uses_token.is_set():
            raise RunError(f"the cluster at {address} uses no token, and Ray has used one in this process; {_ANEW}")
        if mode == "token":
            raise RunError(
                f"the cluster at {address} uses no token, and {MODE} is token here, with which none of its workers "
                f"would start; unset {MODE} here, or set it for the cluster's nodes, too"
            )
        return
    if asks and mode == "disabled":
        raise _token_refused(address, f"{MODE} is disabled here")
    if asks and not token:
        raise _token_refused(address, "there is none here")
    if asks and mode != "token" and not uses_token.is_set() and "ray" in sys.modules:
        raise RunError(f"the cluster at {address} asks for a token, and Ray was imported here without one; {_ANEW}")
    if not mode and token and "ray" not in sys.modules:
        with mode_kept():  # Ray reads it when it is imported
            os.environ[MODE] = "token"
            import_module("petlas.search.runners.ray.cluster")
    try:
        reach(address)
    except TokenRefused as error:
        raise _token_refused(address, "the one here is not it") from error


@contextmanager
def mode_kept() -> Iterator[None]:
    """Put back what the environment said of tokens, for what this process starts later: Ray, too, writes to it.

    What Ray was told in here, it is remembered to keep to.
    """
    before = os.environ.get(MODE)
    try:
        yield
    finally:
        if os.environ.pop(MODE, "").lower() == "token":
            uses_token.set()
        if before is not None:
            os.environ[MODE] = before


def _asks_for_token(address: str) -> bool | None:
    """Whether a cluster asks for a token; None where the address is a word of Ray's, or nothing is seen of it."""
    place = _place(address)
    if place is None:
        return None
    try:
        knock(*place, _WAITS, None, _uses_tls())
    except TokenRefused:
        return True
    return None if _uses_tls() else False


def _current() -> str | None:
    """The address of the cluster that was started last on this machine, as Ray has written it down for `auto`."""
    below = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return (Path(below) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _token_refused(address: str, here: str) -> RunError:
    return RunError(
        f"the cluster at {address} asks for a token, and {here}; on its head node, ray get-auth-token prints it: "
        f"write it to ~/.ray/auth_token here, or export {TOKEN}=..."
    )


def reach(address: str) -> None:
    """Find out whether a cluster answers at an address; where that does not say a place, nothing is found out.

    Args:
        address: As `check_address` has it.

    Raises:
        OSError: When nobody answers there, or somebody else.
        TokenRefused: When it asks for another token.
    """
    if place := _place(address):
        knock(*place, _WAITS, find_token(), _uses_tls())


def _place(address: str) -> tuple[str, int] | None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdecimal() else None


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0") != "0"


def no_cluster(address: str, why: str) -> RunError:
    """What to say of an address where there is no cluster.

    Args:
        address: As it was given.
        why: What is known of it.
    """
    own = "resources.address or $RAY_ADDRESS"
    return RunError(
        f"{own} must be that of a running cluster, got {address!r} ({why}); start one with ray start --head, "
        "or leave both out to search on this machine alone"
    )


def find_token() -> str | None:
    """The token of Ray that this process has, where Ray itself looks for it."""
    if token := os.environ.get(TOKEN, "").strip():
        return token
    try:
        named = os.environ.get(TOKEN_PATH)
        return (Path(named) if named else Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):
        return None


def knock(host: str, port: int, seconds: float, token: str | None, tls: bool = False) -> None:
    """Find out whether a Ray cluster answers at an address and takes a token; one that says nothing more may.

    Args:
        host: Its host.
        port: Its port.
        seconds: How long to wait.
        token: The token; None for none.
        tls: Whether it speaks TLS: then it is only seen to be there.

    Raises:
        OSError: When nobody answers, or somebody else.
        TokenRefused: When it asks for another token.
    """
    until = time.monotonic() + seconds
    with socket.create_connection((host, port), timeout=seconds) as place:
        if tls:
            return
        place.sendall(_call(f"{host}:{port}", token))
        answer = b""
        while _STATUS not in answer and len(answer) < _MOST:
            place.settimeout(max(0.01, until - time.monotonic()))
            try:
                part = place.recv(4096)
            except TimeoutError:
                if not answer:
                    raise
                break
            answer += part
            if not part or (len(answer) >= 4 and answer[3] != _SETTINGS):
                break
        if answer[3:4] != bytes([_SETTINGS]):
            raise OSError("what answers there is not Ray")
        if _REFUSED in answer:
            raise TokenRefused


def _call(place: str, token: str | None) -> bytes:
    """The opening words and a call without arguments."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _CALL,
        ":authority": place,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    if token:
        fields["authorization"] = f"Bearer {token}"
    headers = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _ENDS_HEADERS, 1, headers)
        + _frame(_DATA, _ENDS_STREAM, 1, bytes(5))
    )


def _frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data


def _text(text: str) -> bytes:
    """A text as HPACK writes it (RFC 7541, 5.1 and 5.2), not compressed."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    length, rest = bytes([127]), len(data) - 127
    while rest >= 128:
        length, rest = length + bytes([rest % 128 + 128]), rest // 128
    return length + bytes([rest]) + data
