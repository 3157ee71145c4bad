import io
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from petlas.petl import Design
from petlas.search.api import study
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.live import State, _best, _Watch, line, table, watched
from petlas.search.plan import search_costs
from petlas.search.reports.study_report import StudyReport
from petlas.search.study import BelievedRow, Ending, Entry, StudyRecord
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best so far is read, as without tests."""
    monkeypatch.setattr("petlas.search.live.StudyReport", StudyReport)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal that `watched` takes for that of standard error."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, force_interactive=True, width=160, _environ={"TERM": "xterm"})

    def on_terminal(runs: Any, **more: Any) -> Any:
        return watched(runs, console=console, **more)

    monkeypatch.setattr("petlas.search.driver.watched", on_terminal)
    return file


def text(drawn: Any) -> str:
    file = io.StringIO()
    Console(file=file, width=160).print(drawn)
    return file.getvalue()


def test_a_row_says_how_far_a_run_is() -> None:
    state = State("demo", 0.0, "search", 3, 2, None, ((3, 1, 4), (4, 2, 4)), "81.0 ± 2.8 %", 4.0, 1.0, 10.0)
    told = text(table([state], 60.0))
    assert re.search(r"demo +search +3 +2 +81\.0 ± 2\.8 % +4\.0 +~6\.0 +60 s +~2\.0 min +#3 1/4 #4 2/4", told), told


def test_the_time_left_is_by_the_pace_of_this_process() -> None:
    assert State("r", 10.0, used=3.0, before=1.0, most=7.0).left(30.0) == 40.0  # 2 R in 20 s, 4 R are left
    assert State("r", 10.0, used=1.0, before=1.0, most=7.0).left(30.0) is None
    assert State("r", 10.0, used=3.0, before=1.0, most=7.0, limit=25.0).left(30.0) == 5.0
    assert State("r", 0.0, done=1, total=4, epochs=((1, 5, 10),)).left(15.0) == 25.0  # 1.5 in 15 s, 2.5 are left
    assert State("r", 0.0, done=1).left(15.0) is None


def test_what_is_done_once_before_the_first_work_is_no_part_of_the_pace() -> None:
    """Such as the start of Ray; the limit of time counts from the beginning."""
    assert State("r", 0.0, used=2.0, most=6.0, paced=10.0).left(30.0) == 40.0
    assert State("r", 0.0, used=2.0, most=6.0, paced=10.0, limit=50.0).left(30.0) == 20.0


def test_a_limit_of_time_bounds_what_is_left_in_r() -> None:
    state = State("r", 0.0, used=2.0, most=10.0, limit=30.0)
    assert state.rest(20.0) == 1.0  # 2 R in 20 s, and 10 s are left
    assert State("r", 0.0, used=2.0, most=10.0).rest(20.0) == 8.0


def test_a_line_says_the_same_as_a_row() -> None:
    state = State("demo", 0.0, "search", 3, 2, None, ((3, 1, 4), (4, 2, 4)), "81.0 ± 2.8 %", 4.0, 1.0, 10.0)
    told = "3 done; 2 running (#3 1/4 #4 2/4); best 81.0 ± 2.8 %; 4.0 R used, ~6.0 left; 60 s, ~2.0 min left"
    assert line(state, 60.0) == f"still at search: {told}"
    assert line(State("r", 0.0, "retrain", 0, 1, 3), 40.0) == "still at retrain: 0 of 3 done; 1 running; 40 s"
    assert line(State("r", 0.0), 5.0) == "still at the start: 0 done; 0 running; 5 s"


def test_without_a_terminal_a_long_epoch_is_told_in_lines(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the run's own log, too, and with what the study says, also of R."""
    monkeypatch.setattr("petlas.search.waiting.SILENCE", 0.1)
    monkeypatch.setattr("petlas.search.live._READS_EVERY", 0.0)
    caplog.set_level(logging.INFO, "petlas")

    def curve(design: Any, epoch: int) -> float:
        time.sleep(0.5 if epoch == 2 else 0.0)
        return 0.5

    training.curve = curve
    config = make(search={"trials": 2})
    search(config)
    told = re.findall(r"still at search: .*", (config.folder / "log.txt").read_text())
    wanted = r": 1 done; 1 running \(#1 1/2\); best 50\.0 .*; 1\.5 R used, ~0\.5 left"
    assert any(re.search(wanted, each) for each in told), told
    assert "still at search" in caplog.text


def test_of_a_search_on_folds_the_best_is_what_is_believed(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest of many values on single folds would be the luckiest."""
    monkeypatch.setattr("petlas.search.live._READS_EVERY", 0.0)
    seen: list[str] = []
    monkeypatch.setattr(_Watch, "_look", lambda self: (self._update(), seen.append(self.state.best)))
    training.curve = lambda design, epoch: 0.5 + epoch / 100 + (len(design.key) + sum(map(ord, design.key))) % 50 / 200
    config = make(strategy="auto", search={"cost": 2}, train={"epochs": 3, "batch_size": 200})
    search(config)
    best = study(config).best
    assert isinstance(best, BelievedRow)
    assert seen[0] == "-"
    assert seen[-1] == f"{100 * (best.val or 0):.1f} ± {100 * best.val_error:.1f} % believed"


def test_a_supernet_counts_among_what_is_used_and_left(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petlas.search.live._READS_EVERY", 0.0)
    config = make(
        strategy="supernet",
        search={"trials": 1, "scores": 2, "finalists": 1},
        supernet={"epochs": 2, "warmup_epochs": 0},
    )
    costs = {cost.stage: cost.R for cost in search_costs(Workbench(config))}
    seen: list[State] = []
    monkeypatch.setattr(_Watch, "_look", lambda self: (self._update(), seen.append(self.state)))
    search(config)
    begun, half = seen[0], next(state for state in seen if state.used)
    assert (begun.stage, begun.used, begun.most) == ("supernet", 0.0, pytest.approx(sum(costs.values())))
    assert half.used == pytest.approx(costs["supernet"] / 2)
    assert seen[-1].used == pytest.approx(sum(costs.values()))
    assert seen[-1].rest(0.0) == pytest.approx(0.0, abs=1e-9)


def test_a_retraining_has_no_columns_of_a_search() -> None:
    told = text(table([State("r", 0.0, "retrain", 1, 1, 3)], 1.0))
    assert "1/3" in told
    assert "R used" not in told


def test_many_trainings_are_counted_beyond_some() -> None:
    told = text(table([State("r", 0.0, epochs=tuple((n, 1, 2) for n in range(6)))], 1.0))
    assert "#3 1/2 +2" in told


def test_a_search_on_a_terminal_is_followed_and_leaves_its_log_alone(
    make: Make, training: Any, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petlas.search.live._READS_EVERY", 0.0)

    def curve(design: Any, epoch: int) -> float:
        time.sleep(0.6 if epoch == 2 else 0.0)  # so that the table is drawn
        return 0.5

    training.curve = curve
    config = make(search={"trials": 2})
    before = sys.stderr
    assert search(config) is not None
    seen = re.findall(r"run +search +\d.*", terminal.getvalue())
    assert any(re.search(r"1 +1 +50\.0 .*~.* s +#1 1/2", line) for line in seen), terminal.getvalue()
    assert "\x1b" not in (config.folder / "log.txt").read_text()
    assert sys.stderr is before
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_what_is_believed_is_told_also_of_who_has_all_folds(tmp_path: Path, lora: Callable[..., Design]) -> None:
    record = StudyRecord.create(tmp_path)
    record.claim({"epochs": 1, "images": {"train": 800, "val": 200}})
    for size, fold, value in ((1, 0, 0.7), (1, 1, 0.9), (2, 0, 0.6), (2, 1, 0.7)):
        entry = Entry(Candidate(lora(b0=size)), Fidelity(1, 0, fold, 2), "halving", size)
        number = record.begin(entry, {}, {}, {})
        record.report(number, 1, value)
        record.finish(number, Ending(1, value, 0.1, more={"images": 200}))
    best = (report := StudyReport.of(record)).best
    assert report.pooled and isinstance(best, BelievedRow) and best.val is not None
    assert _best(report) == f"{100 * best.val:.1f} ± {100 * best.val_error:.1f} % believed"


def test_an_interrupt_ends_the_table(make: Make, training: Any, terminal: io.StringIO) -> None:
    def curve(design: Any, epoch: int) -> float:
        raise KeyboardInterrupt

    training.curve, before = curve, sys.stderr
    with pytest.raises(KeyboardInterrupt):
        search(make(search={"trials": 2}))
    assert sys.stderr is before
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back


def test_lines_of_the_log_go_above_the_table() -> None:
    log, file = logging.getLogger("petlas"), io.StringIO()
    console = Console(file=file, force_terminal=True, force_interactive=True, width=80, _environ={"TERM": "xterm"})
    handler = logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    raw = handler.stream
    try:
        with watched([], console=console):
            assert handler.stream is not raw
            log.warning("a line [red] :smile:")
        assert handler.stream is raw
    finally:
        log.removeHandler(handler)
    assert "a line [red] :smile:" in file.getvalue()


def test_without_a_terminal_nothing_is_drawn(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with watched([]):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_notebook_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    with watched([], console=Console(force_jupyter=True)):
        pass
    assert capsys.readouterr() == ("", "")
