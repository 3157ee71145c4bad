import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from petlas.search.run_log import Naming, about, logging_to, printing

log = logging.getLogger("petlas")


@pytest.fixture
def terminal() -> Iterator[list[str]]:
    """The lines that a terminal would show."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Kept()
    handler.setFormatter(Naming("%(message)s"))
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def test_a_line_goes_to_the_log_of_its_run_and_what_is_of_no_run_to_all(tmp_path: Path, terminal: list[str]) -> None:
    folders = [tmp_path / name for name in "ab"]
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir()
            stack.enter_context(logging_to(folder / "log.txt", [f"begins {folder.name}"]))
        with about(folders[0], "a"):
            log.info("of a")
            with about(folders[1], "b"):
                log.warning("of b")
            log.info("of a again")
        log.info("of both")
    a, b = ((folder / "log.txt").read_text() for folder in folders)
    assert [line.partition("INFO ")[2] for line in a.splitlines()] == ["begins a", "of a", "of a again", "of both"]
    assert [line.split(maxsplit=3)[3] for line in b.splitlines()] == ["begins b", "of b", "of both"]
    assert terminal == ["a: of a", "b: of b", "a: of a again", "of both"]


def test_a_single_run_is_not_named(tmp_path: Path, terminal: list[str]) -> None:
    with logging_to(tmp_path / "log.txt"), about(tmp_path):
        log.info("hello")
    log.warning("afterwards")
    assert "hello" in (tmp_path / "log.txt").read_text()
    assert "afterwards" not in (tmp_path / "log.txt").read_text()
    assert terminal == ["hello", "afterwards"]


def test_lines_are_printed_in_a_notebook_unless_logging_was_set_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers, root = log.handlers[:], logging.getLogger().handlers[:]
    try:
        log.handlers[:] = logging.getLogger().handlers[:] = []
        monkeypatch.delattr(sys, "ps1", raising=False)
        with printing():
            log.info("silent")
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
        with printing():
            log.info("told")
        log.info("after")
        log.handlers[:] = [logging.NullHandler()]
        with printing():
            log.info("by others")
    finally:
        log.handlers[:], logging.getLogger().handlers[:] = handlers, root
    assert capsys.readouterr().out == "told\n"
