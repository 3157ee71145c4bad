import ctypes
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.search.config import RunConfig
from petlas.search.run_folder import RunError
from petlas.search.runners import knock as knock_module
from petlas.search.runners.ray import cluster as cluster_module
from petlas.search.runners.ray.cluster import connected

Make = Callable[..., RunConfig]
RAY = {"runner": "ray"}


def test_without_an_address_ray_is_this_searchs_own_even_beside_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(cluster_module.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster_module, "check_address", lambda address: None)
    shared = []
    for address in (None, "10.0.0.1:6379"):
        with connected(address) as others:
            shared.append(others)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    with connected(None) as others:
        shared.append(others)
    assert shared == [False, True, True]
    assert [options["address"] for options in asked] == ["local", "10.0.0.1:6379", "10.0.0.2:6379"]
    assert ["object_store_memory" in options for options in asked] == [True, False, False]
    assert {options["logging_level"] for options in asked} == {logging.CRITICAL}  # nothing of Ray's on standard error


@pytest.mark.parametrize("by", ["setting", "environment"])
@pytest.mark.parametrize(
    ("listens", "answer", "why"),
    [(False, b"", "refused"), (True, b"", "timed out"), (True, b"HTTP/1.1 400 Bad Request", "is not Ray")],
    ids=["nobody", "a server that hangs", "another service"],
)
def test_a_cluster_that_is_not_there_is_the_users_fault_and_told_at_once(
    monkeypatch: pytest.MonkeyPatch, by: str, listens: bool, answer: bytes, why: str
) -> None:
    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", lambda **options: pytest.fail("Ray would try for minutes"))
    monkeypatch.setattr(knock_module, "_WAITS", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{server.getsockname()[1]}"
        if listens:
            server.listen()
        if answer:
            threading.Thread(target=lambda: server.accept()[0].sendall(answer), daemon=True).start()
        if by == "environment":
            monkeypatch.setenv("RAY_ADDRESS", place)
        with (
            pytest.raises(
                RunError, match=rf"running cluster, got '{place}' \(.*{why}.*start one with ray start --head"
            ),
            connected(place if by == "setting" else None),
        ):
            pass


def test_that_ray_finds_no_cluster_is_told_in_the_same_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nSee the manual")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where no cluster is written down
    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", refuse)
    with (
        pytest.raises(RunError, match=r"got 'auto' \(Could not find any running Ray instance\.\); start one"),
        connected("auto"),
    ):
        pass


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied", "/nonexistent"), RuntimeError("Could not determine home directory.")],
)
def test_that_ray_does_not_start_on_this_machine_is_told_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It keeps a token in the home folder: where there is none, or it cannot be written, there is no Ray."""

    def refuse(**options: Any) -> None:
        raise error

    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", refuse)
    with pytest.raises(RunError, match=r"did not \(.*\); it needs a HOME .*resources\.runner=inline"), connected(None):
        pass


def test_what_a_search_needs_in_the_environment_does_not_stay_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of this machine's own has its processes use a token, by the environment."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(knock_module, "uses_token", threading.Event())
    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", lambda **options: os.environ.update(RAY_AUTH_MODE="token"))
    monkeypatch.setattr(cluster_module.ray, "shutdown", lambda: None)
    with connected(None):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in os.environ
    assert knock_module.uses_token.is_set()


def test_rays_own_signal_handlers_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_over(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *args: None)

    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", take_over)
    monkeypatch.setattr(cluster_module.ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with connected(None):
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_is_set_behind_pythons_back_in_another_thread_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray's own is set in C: Python does not know of it, and no thread but the main one may ask Python for another."""
    libc, ignore, heard = ctypes.CDLL(None), ctypes.c_void_p(1), list[int]()  # 1 is SIG_IGN
    libc.signal.restype = ctypes.c_void_p
    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module.ray, "init", lambda **options: libc.signal(signal.SIGTERM, ignore))
    monkeypatch.setattr(cluster_module.ray, "shutdown", lambda: None)

    def connect() -> None:
        with connected(None):
            pass

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        elsewhere = threading.Thread(target=connect)
        elsewhere.start()
        elsewhere.join()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
