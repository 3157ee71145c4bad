import logging
import time
from collections.abc import Iterator

import pytest

from petlas.search.waiting import never_silent

log = logging.getLogger("petlas")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Silence begins after a twentieth of a second."""
    monkeypatch.setattr("petlas.search.waiting.SILENCE", 0.05)
    caplog.set_level(logging.INFO, "petlas")
    yield
    assert not log.filters


def test_whoever_waits_is_told_that_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with never_silent():
        time.sleep(0.3)
    assert 2 <= caplog.text.count("still at work, after 0 s") <= 6
    caplog.clear()
    time.sleep(0.12)
    assert not caplog.records


def test_where_lines_come_by_themselves_nothing_is_added(caplog: pytest.LogCaptureFixture) -> None:
    with never_silent():
        for _ in range(60):
            log.info("a line")
            time.sleep(0.005)
    assert "still" not in caplog.text


def test_of_several_the_innermost_speaks(caplog: pytest.LogCaptureFixture) -> None:
    with never_silent():
        with never_silent(lambda: log.info("inside")):
            time.sleep(0.2)
        assert {record.message for record in caplog.records} == {"inside"}
        with never_silent(lambda: None):
            caplog.clear()
            time.sleep(0.2)
        assert not caplog.records
        time.sleep(0.2)
    assert "still at work" in caplog.text


def test_silence_does_not_begin_anew_with_each_that_is_inside(caplog: pytest.LogCaptureFixture) -> None:
    """A command goes from one to the next, each of which knows more than the one around it."""
    with never_silent(lambda: log.info("outside")):
        for _ in range(8):
            with never_silent(lambda: log.info("inside")):
                time.sleep(0.03)
    assert caplog.records


def test_a_program_that_set_up_no_logging_still_sees_warnings() -> None:
    before = list(log.handlers)
    with never_silent():
        assert log.handlers == before


def test_an_error_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), never_silent():
        raise KeyboardInterrupt
