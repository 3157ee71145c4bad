"""Ctrl-C and SIGTERM: one KeyboardInterrupt, one line on how to go on, status 130; and no command is long silent."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec

import typer

P = ParamSpec("P")

STATUS = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SOON = 0.05
"""Seconds until an interruption that got lost comes once more."""


def heed_signals() -> None:
    """Let the first of the signals raise KeyboardInterrupt; further ones do not disturb the shutting down.

    A signal that whoever started this process had ignored, as `nohup` and `&` do, stays ignored.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _come_again


def _come_again(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt once more, a little later: Python passes over what is raised while an object is taken down."""
    if not isinstance(lost.exc_value, KeyboardInterrupt) or not lost.exc_value.args:
        sys.__unraisablehook__(lost)
        return
    heed_signals()
    timer = threading.Timer(_SOON, os.kill, (os.getpid(), *lost.exc_value.args))
    timer.daemon = True
    timer.start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _ignore)  # not SIG_IGN, which programs that are started now would inherit
    raise KeyboardInterrupt(number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Nothing: this process is about to end."""


def resumable(command: Callable[P, None]) -> Callable[P, None]:
    """A command that says how to go on when it is interrupted, with status 130; and that it is at work when it is long.

    Where it knows more of what it does, it says that itself.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            from petlas.search.waiting import never_silent  # in here, as help is to be quick

            with never_silent():
                command(*args, **kwargs)
        except KeyboardInterrupt:
            again = shlex.join(["petlas", *sys.argv[1:]])
            print(f"\nstopped; what is finished is kept. To go on: {again}", file=sys.stderr)
            raise typer.Exit(STATUS) from None

    return run
