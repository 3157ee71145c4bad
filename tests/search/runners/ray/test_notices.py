import logging
import sys
import threading
from pathlib import Path

import pytest

from petlas.search.run_log import for_terminal, logging_to
from petlas.search.runners.ray.notices import notices_to_log


def test_what_ray_says_is_in_the_runs_log_and_neither_in_the_output_nor_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, before = logging.getLogger("petlas"), sys.stdout
    said = "\x1b[33m(raylet)\x1b[0m Raylet is terminated.\n    its last lines"
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(for_terminal)
    log.addHandler(handler)
    try:
        with logging_to(tmp_path / "log.txt"), notices_to_log():
            ray = threading.Thread(target=lambda: print(said), name="ray_listen_error_messages")
            ray.start()
            ray.join()
            print("the table", flush=True)
            assert sys.stdout.encoding == before.encoding
            log.info("a line")
    finally:
        log.removeHandler(handler)
    assert sys.stdout is before
    assert capsys.readouterr() == ("the table\n", "a line\n")
    told = (tmp_path / "log.txt").read_text()
    assert "INFO Ray: Raylet is terminated.\n    its last lines\n" in told
    assert "\x1b" not in told


def test_what_others_put_before_standard_output_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with notices_to_log():
        sys.stdout = other = sys.stderr
    assert sys.stdout is other
