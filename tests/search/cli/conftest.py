"""The command line in this process, and what it loads in another."""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from petlas.search import cli


class Result:
    """What a command gave back."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert "Traceback" not in out + err, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def petlas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Result]]:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("petlas")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)

    def petlas(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["petlas", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as caught:
                cli.main()
        finally:
            restore()
        out, err = capsys.readouterr()
        return Result(caught.value.code or 0, out, err)

    yield petlas
    restore()


@pytest.fixture
def imported() -> Callable[..., set[str]]:
    """The top-level modules that a command loads."""

    def imported(*arguments: str) -> set[str]:
        code = (
            "import sys\nfrom petlas.search.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    assert not end.code, end.code\n"
            "print('MODULES', *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return set(done.stderr.rpartition("MODULES")[2].split())

    return imported
