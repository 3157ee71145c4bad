import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from petlas.search import api, cli
from petlas.search.cli.interrupts import heed_signals
from petlas.search.config import load_config
from petlas.search.study import StudyRecord

Write = Callable[..., Path]
Petlas = Callable[..., Any]


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts the handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_once_and_further_ones_are_ignored(signals: None, number: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    heed_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        time.sleep(1)
    for again in (signal.SIGINT, signal.SIGTERM, number):
        os.kill(os.getpid(), again)
    time.sleep(0.01)
    assert signal.getsignal(number) is not signal.SIG_IGN  # a program that is started now would inherit that


def test_a_signal_that_was_ignored_stays_ignored(signals: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    heed_signals()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("command", ["search", "score"])
def test_ctrl_c_ends_with_status_130_and_says_how_to_go_on(
    petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, command, interrupt)
    path = write()
    result = petlas(command, path, "search.trials=2")
    assert result.status == 130
    assert f"To go on: petlas {command} {path} search.trials=2" in result.err
    assert result.err.strip().count("\n") == 0
    assert "To go on: petlas search 'a b'" in _interrupted_with_a_blank(petlas, write, monkeypatch, interrupt)


def _interrupted_with_a_blank(petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch, stop: Any) -> str:
    monkeypatch.setattr(api, "search", stop)
    write("a b")
    text: str = petlas("search", "a b").err
    return text


def test_ctrl_c_in_a_trial_ends_the_search(petlas: Petlas, write: Write, training: Any) -> None:
    def interrupt(design: object, epoch: int) -> float:
        raise KeyboardInterrupt

    training.curve = interrupt
    path = write()
    result = petlas("search", path, "search.trials=2")
    assert result.status == 130
    assert f"To go on: petlas search {path} search.trials=2" in result.err


class Fleeting:
    """What is interrupted while it is taken down."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def test_an_interruption_that_python_passes_over_comes_once_more(
    signals: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back
    signal.signal(signal.SIGINT, signal.default_int_handler)
    heed_signals()
    thing = Fleeting()
    del thing
    with pytest.raises(KeyboardInterrupt):
        time.sleep(5)
    assert not capfd.readouterr().err


SEARCHES = """
import signal, sys
from petlas.search.cli import main

for path in sys.argv[1:]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not so in the background
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["petlas", "search", path]
    try:
        main()
    except SystemExit as end:
        print("ended with", end.code, file=sys.stderr, flush=True)
        status = end.code
sys.exit(status)
"""
"""One after the other in one process, as it takes seconds to import what they need."""


def test_a_signal_ends_a_real_search_with_status_130_and_finished_trials_stay(
    write: Write, few_digits: str, environment: dict[str, str]
) -> None:
    options = {"task": {"name": few_digits}, "train": {"epochs": 10}, "search": {"trials": 200}}
    paths = [write(f"{name}.yaml", name=name, **options) for name in ("interrupted", "terminated")]
    command = [sys.executable, "-c", SEARCHES, *map(str, paths)]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        for number in (signal.SIGINT, signal.SIGTERM):
            assert any("trial   0  COMPLETE" in line for line in lines)
            time.sleep(0.3)
            process.send_signal(number)
            process.send_signal(number)
            told = list(takewhile(lambda line: "ended with" not in line, lines))
            assert any("To go on: petlas search" in line for line in told)
            assert not any("Traceback" in line for line in told)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    for path in paths:
        trials = StudyRecord.read(load_config(str(path)).folder).trials()
        assert trials[0].state.name == "COMPLETE"
        assert "RUNNING" not in {trial.state.name for trial in trials}


def test_ctrl_c_while_python_still_reads_the_program_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "petlas.search.cli.app", Slow("app"))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130


def test_a_command_that_is_long_says_so_and_a_dashboard_that_waits_does_not(
    petlas: Petlas, write: Write, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert petlas("search", write(), "search.trials=1").status == 0
    monkeypatch.setattr("petlas.search.waiting.SILENCE", 0.05)
    monkeypatch.setattr(api, "report", lambda runs, out: time.sleep(0.3) or Path("page.html"))
    assert "still at work, after" in petlas("report", "run").err

    class Server:
        server_port = 8080

        def serve_forever(self) -> None:
            print("it waits", file=sys.stderr)  # what came before may have been long
            time.sleep(0.3)

    monkeypatch.setattr("petlas.search.reports.dashboard.dashboard", lambda config, port: nullcontext(Server()))
    _, waits, then = petlas("study", "run", "--dashboard").err.partition("it waits\n")
    assert (waits, then) == ("it waits\n", "")
