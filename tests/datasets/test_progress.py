import logging
import sys

import pytest

from petlas.datasets import progress


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def run() -> list[int]:
    return list(progress.track(range(5), 5, "decoding images"))


def test_a_short_job_is_silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    assert run() == [0, 1, 2, 3, 4]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_long_job_logs_plain_lines_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    assert run() == [0, 1, 2, 3, 4]
    assert [record.getMessage() for record in caplog.records] == ["decoding images: 1 of 5"]


def test_a_long_job_shows_a_bar_on_a_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert run() == [0, 1, 2, 3, 4]
    assert "decoding images" in terminal.text
    assert not caplog.records
