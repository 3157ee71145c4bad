"""How far runs are: a table that is kept up to date on a terminal, elsewhere a line where the log has long had none."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from petlas.search.reckoning import Reckoned, reckon
from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.text import duration, measured, shown, unit
from petlas.search.run_log import about
from petlas.search.stages.rounds import Job, Turns
from petlas.search.study import is_interrupted
from petlas.search.training import EpochResult
from petlas.search.waiting import never_silent
from petlas.search.workbench import Workbench

if TYPE_CHECKING:
    from petlas.search.strategies.base import StageCost

log = logging.getLogger("petlas")

_READS_EVERY = 0.5  # seconds between readings of the study, beside those when a trial ends
_NAMED = 4
"""Of so many trainings the epochs are told one by one."""


@contextmanager
def watched(
    runs: Sequence[Turns],
    jobs: int | None = None,
    costs: Callable[[Workbench], Sequence[StageCost]] = lambda bench: (),
    console: Console | None = None,
) -> Iterator[None]:
    """Show how far runs are while they are done in here.

    On a terminal that is a table below the lines of the log; elsewhere a line wherever nothing was said for a while.

    Args:
        runs: Of which none has begun.
        jobs: How many pieces of work there are in all, where that is known.
        costs: What the stages of a search cost at most.
        console: Where the table is drawn; by default on the terminal of standard error, if it is one.
    """
    where = console or Console(stderr=True, markup=False, emoji=False)
    drawn = where.is_interactive and not (where.is_dumb_terminal or where.is_jupyter)
    watches = [_Watch(run, jobs, costs) for run in runs]
    for watch in watches:
        watch.start()
    try:
        with ExitStack() as stack:
            if drawn and (console or sys.stderr.isatty()):
                stack.enter_context(never_silent(lambda: None))  # the table says it
                stack.enter_context(_table_shown(watches, where))
            else:
                stack.enter_context(never_silent(lambda: _say(watches)))
            yield
    finally:
        for watch in watches:
            watch.stop()


def _say(watches: Sequence[_Watch]) -> None:
    for watch in watches:
        with about(watch.turns.bench.config.folder, watch.turns.name):
            log.info("%s", line(watch.state, time.monotonic()))


@contextmanager
def _table_shown(watches: Sequence[_Watch], console: Console) -> Iterator[None]:
    """The table below all that is printed; it is gone at the end, however that comes."""
    raw = {"stderr": sys.stderr, "stdout": sys.stdout}
    live = Live(
        get_renderable=lambda: table([watch.state for watch in watches], time.monotonic()),
        console=console,
        refresh_per_second=2,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    handlers = [
        (handler, name, stream)
        for handler in log.handlers
        for name, stream in raw.items()
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
    try:
        with live:
            for handler, name, _ in handlers:
                handler.setStream(getattr(sys, name))  # which writes above the table now
            yield
    finally:
        for handler, _, stream in handlers:
            handler.setStream(stream)


@dataclass(frozen=True)
class State:
    """How far a run is.

    Args:
        name: The run's.
        began: When this process began with it, by the monotonic clock.
        stage: What is done now; empty before anything is.
        done: How many trials, or pieces of work, came to their end.
        running: How many are running.
        total: How many there will be; None where that is open.
        epochs: For each that is running, its number, its epochs so far and all of them; 0 where it has none.
        best: What the best candidate so far is compared by, with its standard error, in words.
        used: What the search has cost so far, in R, with what is running; None where no R is counted.
        before: What of that was spent before this process.
        most: What it will have cost in the end, in R, as it is reckoned now.
        limit: After how many seconds nothing more begins.
        paced: When the first piece of work began, after all that is done once; None before that.
    """

    name: str
    began: float
    stage: str = ""
    done: int = 0
    running: int = 0
    total: int | None = None
    epochs: tuple[tuple[int, int, int], ...] = ()
    best: str = "-"
    used: float | None = None
    before: float = 0.0
    most: float = 0.0
    limit: float | None = None
    paced: float | None = None

    def rest(self, now: float) -> float:
        """R that are still to come: no more than what is done, at the pace so far, within the limit.

        Args:
            now: By the monotonic clock.
        """
        used = self.used or 0.0
        missing, made, took = max(0.0, self.most - used), used - self.before, self._took(now)
        if self.limit is None or made <= 0 or took <= 0:
            return missing
        return min(missing, made / took * max(0.0, self.limit - (now - self.began)))

    def _took(self, now: float) -> float:
        return now - (self.began if self.paced is None else self.paced)

    def left(self, now: float) -> float | None:
        """Seconds to the end at the pace of this process since its first work; None as long as there is no pace.

        Args:
            now: By the monotonic clock.
        """
        took = self._took(now)
        if self.used is not None:
            made, missing = self.used - self.before, max(0.0, self.most - self.used)
        else:
            parts = sum(epoch / of for _, epoch, of in self.epochs if of)
            made, missing = self.done + parts, max(0.0, (self.total or 0) - self.done - parts)
        found = took / made * missing if made > 0 and (self.used is not None or self.total) else None
        if self.limit is None:
            return found
        rest = max(0.0, self.limit - (now - self.began))
        return rest if found is None else min(found, rest)


def table(states: Sequence[State], now: float) -> RenderableType:
    """The table of runs.

    Args:
        states: How far each is.
        now: By the monotonic clock.
    """
    counted = any(state.used is not None for state in states)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["run", "stage", "done", "running", *(["best", "R used", "R left"] if counted else []), "time", "left"]
    for column in (*columns, "epochs"):
        drawn.add_column(column, no_wrap=column != "run", overflow="ellipsis")
    for state in states:
        left = state.left(now)
        of_search = [state.best, f"{state.used or 0:.1f}", f"~{state.rest(now):.1f}"]
        drawn.add_row(
            shown(state.name),
            state.stage or "starting",
            f"{state.done}" if state.total is None else f"{state.done}/{state.total}",
            f"{state.running}",
            *(of_search if counted else []),
            duration(now - state.began),
            "-" if left is None else f"~{duration(left)}",
            _epochs(state.epochs),
        )
    return drawn


def line(state: State, now: float) -> str:
    """How far a run is, on one line.

    Args:
        state: How far it is.
        now: By the monotonic clock.
    """
    left, epochs = state.left(now), _epochs(state.epochs)
    parts = [
        f"{state.done}{'' if state.total is None else f' of {state.total}'} done",
        f"{state.running} running" + (f" ({epochs})" if epochs else ""),
        *([] if state.best == "-" else [f"best {state.best}"]),
        *([] if state.used is None else [f"{state.used:.1f} R used, ~{state.rest(now):.1f} left"]),
        duration(now - state.began) + ("" if left is None else f", ~{duration(left)} left"),
    ]
    return f"still at {state.stage or 'the start'}: {'; '.join(parts)}"


def _epochs(running: Sequence[tuple[int, int, int]]) -> str:
    named = [f"#{number} {epoch}/{of}" for number, epoch, of in running if of]
    return " ".join(named[:_NAMED]) + (f" +{len(named) - _NAMED}" if len(named) > _NAMED else "")


class _Watch:
    """Keeps the state of a run as its work goes on; what goes wrong with that is no fault of the search.

    Args:
        turns: The run.
        jobs: How many pieces of work there are in all, where that is known.
        costs: What the stages of a search cost at most.
    """

    def __init__(self, turns: Turns, jobs: int | None, costs: Callable[[Workbench], Sequence[StageCost]]) -> None:
        self.turns, self._read_at, self._best, self._ended = turns, 0.0, "-", 0
        self._reckoned, self._progress = Reckoned(0.0, 0.0), dict[str, float]()
        self._known = 0  # of its jobs that came to their end, those whose ends were read
        config, record = turns.bench.config, turns.record
        if record is None:
            self.state = State(config.name, time.monotonic(), total=jobs)
            return
        self._costs = costs(turns.bench)
        self._read()
        limit = None if config.search.seconds is None else max(0.0, config.search.seconds - record.elapsed)
        self.state = State(
            config.name, time.monotonic(), done=self._ended, best=self._best, used=self._reckoned.used,
            before=self._reckoned.used, most=sum(self._reckoned), limit=limit,
        )  # fmt: skip

    def start(self) -> None:
        """Begin to look."""
        self.turns.watchers.append(self)

    def stop(self) -> None:
        """Look no more."""
        self.turns.watchers.remove(self)

    def on_start(self, job: Job) -> None:
        """Look."""
        self._look()

    def on_epoch(self, job: Job, result: EpochResult) -> None:
        """Look; of what is no trial, how much of it is done."""
        own = getattr(job.bench.config, job.proposal.work, None)
        if job.proposal.entry is None:
            self._progress[job.proposal.work] = min(1.0, result.epoch / getattr(own, "epochs", 1))
        self._look()

    def on_end(self, job: Job, error: str) -> None:
        """Look."""
        self._look()

    def _look(self) -> None:
        try:
            self._update()
        except Exception:
            log.debug("the table could not be made", exc_info=True)

    def _update(self) -> None:
        before, running = self.state, [job for job in self.turns.jobs if job.begun]
        entries = [(job, job.proposal.entry) for job in running]
        stages = dict.fromkeys(entry.stage if entry else job.proposal.work for job, entry in entries)
        epochs = tuple(
            (job.proposal.number, min(job.epoch, entry.fidelity.epochs), entry.fidelity.epochs)
            for job, entry in entries
            if entry is not None
        )
        due = self._known != self.turns.done or time.monotonic() - self._read_at >= _READS_EVERY
        if self.turns.record is not None and due:
            self._read()
        record = self.turns.record
        self.state = State(
            before.name, before.began, ", ".join(stages) or before.stage,
            self.turns.done if record is None else self._ended,
            len(running), before.total, epochs, self._best,
            None if record is None else self._reckoned.used, before.before, sum(self._reckoned), before.limit,
            time.monotonic() if before.paced is None and running else before.paced,
        )  # fmt: skip

    def _read(self) -> None:
        """What the study says: trials that ended, what they cost, and the best candidate by them."""
        record = self.turns.record
        assert record is not None, "only a search has a study to read"
        self._read_at, self._known = time.monotonic(), self.turns.done
        counted = [trial for trial in record.trials() if not is_interrupted(trial)]
        before, self._ended = self._ended, sum(trial.state.is_finished() for trial in counted)
        self._reckoned = reckon(self._costs, counted, record.about, self._progress)
        if self._ended != before:  # what is believed takes up to 0.1 s
            self._best = _best(StudyReport.of(record))


def _best(report: StudyReport) -> str:
    """What the best candidate is chosen by."""
    if (row := report.best) is None:
        return "-"
    pooled = report.pooled.get(row.key) if report.believed is None else None
    value, error = (row.val, report.error(row)) if pooled is None else (pooled.value, pooled.error)
    sure = "" if error is None or math.isnan(error) else f" ± {measured(report.metric, error)}"
    of = " believed" if report.believed is not None else "" if pooled is None else " over folds"
    return f"{measured(report.metric, value)}{sure}{unit(report.metric)}{of}"
