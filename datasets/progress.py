"""Tells how far a long job is: a bar on a terminal, plain log lines elsewhere, nothing for a short job."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TypeVar

T = TypeVar("T")
Report = Callable[[int], float]  # takes the number done, returns the seconds until the next report

SHORT_SECONDS = 2.0  # a job that ends sooner stays silent
BAR_SECONDS = 0.1
LOG_SECONDS = 15.0

_log = logging.getLogger(__name__)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass items on and report how many of them have gone by.

    Args:
        items: The items.
        total: How many there are.
        what: What is done with them, as in "decoding images".
    """
    report: Report | None = None
    due = time.monotonic() + SHORT_SECONDS
    with ExitStack() as stack:
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() >= due:
                report = report or (_bar(total, what, stack) if sys.stderr.isatty() else _lines(total, what))
                due = time.monotonic() + report(done)


def _lines(total: int, what: str) -> Report:
    def report(done: int) -> float:
        _log.info("%s: %d of %d", what, done, total)
        return LOG_SECONDS

    return report


def _bar(total: int, what: str, stack: ExitStack) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
    job = bar.add_task(what, total=total)

    def report(done: int) -> float:
        bar.update(job, completed=done)
        return BAR_SECONDS

    return report
