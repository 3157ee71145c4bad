import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from petlas.search.run_folder import RunError
from petlas.search.runners.ray import start as start_module
from petlas.search.runners.ray.start import Start


def test_ray_starts_in_the_background_and_the_thread_that_started_it_stays_until_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux ends Ray's processes with the thread that started them, not with its process."""
    go, seen = threading.Event(), list[tuple[str, threading.Thread]]()

    @contextmanager
    def connected(address: str | None) -> Iterator[bool]:
        assert address is None
        assert go.wait(20)
        seen.append(("begun", threading.current_thread()))
        yield False
        seen.append(("gone", threading.current_thread()))

    monkeypatch.setattr(start_module, "connected", connected)
    with Start() as start:
        assert seen == []
        go.set()
        assert start.wait() is False
        ((what, thread),) = seen
        assert (what, thread.is_alive()) == ("begun", True)
    assert seen == [("begun", thread), ("gone", thread)]
    assert not thread.is_alive()


def test_what_goes_wrong_in_the_background_is_told_to_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(address: str | None) -> Iterator[bool]:
        raise RunError("no room")
        yield

    monkeypatch.setattr(start_module, "connected", connected)
    with Start() as start, pytest.raises(RunError, match="no room"):
        start.wait()


def test_it_ends_also_where_nobody_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    @contextmanager
    def connected(address: str | None) -> Iterator[bool]:
        yield False
        ended.set()

    monkeypatch.setattr(start_module, "connected", connected)
    with pytest.raises(ZeroDivisionError), Start():
        raise ZeroDivisionError
    assert ended.is_set()


def test_whoever_fails_while_ray_starts_leaves_no_ray_that_goes_on_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the process, which has half a Ray, does not end, and the next search in it starts beside that."""
    starts, ended = threading.Event(), threading.Event()

    @contextmanager
    def connected(address: str | None) -> Iterator[bool]:
        assert starts.wait(20)
        yield False
        ended.set()

    monkeypatch.setattr(start_module, "connected", connected)
    threading.Timer(0.1, starts.set).start()
    with pytest.raises(RunError), Start():
        raise RunError("no such task")
    assert ended.is_set()


def test_whoever_is_interrupted_while_ray_starts_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()

    @contextmanager
    def connected(address: str | None) -> Iterator[bool]:
        assert address == "10.0.0.1:6379"
        hangs.wait(20)
        yield True

    monkeypatch.setattr(start_module, "connected", connected)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with pytest.raises(KeyboardInterrupt), Start("10.0.0.1:6379") as start:
        start.wait()
    signal.signal(signal.SIGTERM, before)
    assert not hangs.is_set()
    hangs.set()


def test_the_next_ray_of_a_process_waits_for_one_that_was_interrupted_while_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a notebook: Ray is one in a process, and a search must not take one that is about to end for its own."""
    begins, starts, there = threading.Event(), threading.Event(), list[str]()

    @contextmanager
    def connected(address: str | None) -> Iterator[bool]:
        there.append(f"{address} begins")
        begins.set()
        assert starts.wait(20)
        yield False
        there.append(f"{address} ends")

    monkeypatch.setattr(start_module, "connected", connected)
    with pytest.raises(KeyboardInterrupt), Start("a"):
        assert begins.wait(20)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), Start("b"):  # once more, before the first is gone
        raise KeyboardInterrupt
    with Start("c") as start:
        assert "c begins" not in there
        starts.set()
        start.wait()
        assert there == ["a begins", "a ends", "c begins"]
    assert there[-1] == "c ends"


def test_what_is_made_and_not_entered_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between the two leaves nothing behind."""
    monkeypatch.setattr(start_module, "connected", lambda address: pytest.fail("Ray starts"))
    Start()
    time.sleep(0.05)
    assert all(thread.name != "Ray" for thread in threading.enumerate())
