import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from petlas.datasets import DataError
from petlas.search.stages.base import NOT_BEGUN, Proposal, SearchStopped, Stage
from petlas.search.stages.rounds import Job, Rounds, Turns
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


class Counted(Stage):
    """So many pieces of work of which nothing is written down."""

    work = "counted"

    def __init__(self, bench: Workbench, count: int) -> None:
        super().__init__(bench)
        self._left, self.told = count, []  # type: ignore[var-annotated]

    def on_open(self) -> None:
        self.told.append("open")

    def on_close(self) -> None:
        self.told.append("close")

    def exhausted(self) -> bool:
        return bool(self.fault) or not self._left

    def propose(self) -> Proposal:
        self._left -= 1
        return Proposal(NOT_BEGUN, None, self.work)

    def begin(self, proposal: Proposal) -> Proposal:
        self.told.append("begin")
        return proposal

    def on_epoch(self, number: int, result: EpochResult) -> bool:
        self.told.append(f"epoch {result.epoch}")
        return True

    def on_end(self, number: int, result: EpochResult | None, error: str = "", device: str | None = None) -> None:
        self.told.append(f"end {error}".strip())

    def on_lost(self, number: int, why: str) -> None:
        self._left += 1
        self.told.append(f"lost {why}")

    def on_fault(self, number: int, message: str) -> None:
        self.fault = self.fault or message
        self.told.append(f"fault {message}")


def done(job: Job, seconds: float) -> None:
    job.start()
    result = EpochResult(1, 1.0, 0.5, seconds)
    job.on_epoch(result)
    job.on_end(result)


@pytest.fixture
def turns(bench: Bench) -> Callable[..., Turns]:
    """A run of stages of so much work each."""

    def turns(name: str, *counts: int) -> Turns:
        found = bench(name=name)
        return Turns(found, lambda: (Counted(found, count) for count in counts), name)

    return turns


def names(jobs: list[Job]) -> list[str]:
    return [job.bench.config.name for job in jobs]


def next_of(rounds: Rounds) -> Job:
    job = rounds.next()
    assert job is not None
    return job


def test_a_single_run_is_a_round_of_one_stage_after_the_other(bench: Bench) -> None:
    found, stages = bench(), []

    def make() -> Iterator[Stage]:
        for count in (2, 0, 1):
            assert all(stage.told[-1] == "close" for stage in stages)
            stages.append(Counted(found, count))
            yield stages[-1]

    rounds = Rounds([Turns(found, make)])
    while (job := rounds.next()) is not None:
        done(job, 1.0)
    assert rounds.over
    piece = ["begin", "epoch 1", "end"]
    assert [stage.told for stage in stages] == [
        ["open", *piece, *piece, "close"],
        ["open", "close"],
        ["open", *piece, "close"],
    ]


def test_a_stage_waits_for_what_runs_of_the_one_before(turns: Callable[..., Turns]) -> None:
    rounds = Rounds([turns("a", 2, 1)])
    first, second = next_of(rounds), next_of(rounds)
    assert rounds.next() is None
    assert not rounds.over
    done(first, 1.0)
    assert rounds.next() is None
    done(second, 1.0)
    done(next_of(rounds), 1.0)
    assert rounds.next() is None
    assert rounds.over


def test_runs_that_have_cost_nothing_take_turns(turns: Callable[..., Turns]) -> None:
    rounds = Rounds([turns(name, 9) for name in "abc"])
    assert names([next_of(rounds) for _ in range(6)]) == [*"abcabc"]


def test_turns_are_fair_by_seconds_of_work(turns: Callable[..., Turns]) -> None:
    """A run whose trials take ten times as long has a tenth as many, and neither waits for the other's end."""
    rounds = Rounds([turns("slow", 99), turns("fast", 99)])
    order = []
    for _ in range(44):
        job = next_of(rounds)
        order.append(job.bench.config.name)
        done(job, 10.0 if order[-1] == "slow" else 1.0)
    assert Counter(order) == {"slow": 4, "fast": 40}
    assert "fast" in order[:2]
    assert "slow" in order[-11:]


def test_what_runs_counts_too(turns: Callable[..., Turns]) -> None:
    rounds = Rounds([turns("slow", 99), turns("fast", 99)])
    slow, fast = next_of(rounds), next_of(rounds)
    slow.on_epoch(EpochResult(1, 1.0, 0.5, 30.0))
    fast.on_epoch(EpochResult(1, 1.0, 0.5, 1.0))
    assert names([next_of(rounds) for _ in range(3)]) == ["fast"] * 3


def test_turns_that_a_run_could_not_use_are_not_saved_up(turns: Callable[..., Turns]) -> None:
    """While a run waits for its first stage to end, the others have all workers; then it has its part, and no more."""
    rounds = Rounds([turns("waits", 1, 99), turns("works", 999)])
    alone = next_of(rounds)
    for _ in range(100):
        job = next_of(rounds)
        assert job.bench.config.name == "works"
        done(job, 1.0)
    done(alone, 1.0)
    order = []
    for _ in range(20):
        job = next_of(rounds)
        order.append(job.bench.config.name)
        done(job, 1.0)
    assert abs(order.count("waits") - order.count("works")) <= 2


def test_work_whose_worker_died_is_handed_out_again(turns: Callable[..., Turns]) -> None:
    rounds = Rounds([turns("a", 1)])
    job = next_of(rounds)
    job.start()
    job.on_lost("the worker died")
    assert not rounds.over
    done(next_of(rounds), 1.0)
    assert rounds.over


def test_a_run_that_the_surroundings_stop_does_not_take_the_others_along(
    turns: Callable[..., Turns], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else runs of it counts as never done, and does not begin."""
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    bad, good = turns("bad", 9, 9), turns("good", 2)
    rounds = Rounds([bad, good])
    first, other, second, waits = (next_of(rounds) for _ in range(4))
    for job in (first, other, second):
        job.start()
    first.on_fault("image 7 is cut off")
    assert isinstance(bad.error, SearchStopped)
    assert "image 7 is cut off" in caplog.text
    assert not second.on_epoch(EpochResult(1, 1.0, 0.5, 0.1))
    second.on_end(EpochResult(1, 1.0, 0.5, 0.1))
    assert second._stage.told[-2:] == ["fault image 7 is cut off"] * 2  # type: ignore[attr-defined]
    done(waits, 1.0)
    done(other, 1.0)
    assert not rounds.stopped
    assert rounds.next() is None
    assert rounds.over
    assert good.error is None


@pytest.mark.parametrize("where", ["stages", "on_open", "propose", "begin", "on_epoch", "on_end", "on_close"])
def test_whatever_goes_wrong_in_the_driver_is_of_the_run_it_happens_in(
    bench: Bench, turns: Callable[..., Turns], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    error = OSError(28, "No space left on device")
    found = bench(name="bad")

    def fail(*_: Any) -> Any:
        raise error

    class Bad(Counted):
        pass

    if where != "stages":
        setattr(Bad, where, fail)
    bad = Turns(found, fail if where == "stages" else lambda: iter([Bad(found, 1)]), "bad")
    rounds = Rounds([bad, turns("good", 2)])
    handed = []
    while (job := rounds.next()) is not None:
        handed.append(job.bench.config.name)
        done(job, 1.0)
    assert bad.error is error
    assert handed.count("good") == 2
    assert rounds.over


def test_all_have_stopped_when_each_has(turns: Callable[..., Turns]) -> None:
    runs = [turns("a", 1), turns("b", 1)]
    rounds = Rounds(runs)
    for job in (next_of(rounds), next_of(rounds)):
        assert not rounds.stopped
        job.start()
        job.on_fault(str(DataError("gone")))
    assert rounds.stopped
    assert [str(run.error) for run in runs] == ["gone", "gone"]


@pytest.mark.parametrize("name", ["", "one of two"])
def test_why_a_run_stopped_is_in_its_log(
    turns: Callable[..., Turns], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """And on the terminal where there are several: of one alone the command tells at its end."""
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    run = turns("run", 1)
    run.name = name
    with run.at_work():
        raise DataError("the disk is full")
    (record,) = caplog.records
    assert record.getMessage() == "stopped: the disk is full"
    assert getattr(record, "aside", False) is not bool(name)


def test_an_interruption_is_no_fault_of_a_run(turns: Callable[..., Turns]) -> None:
    run = turns("a", 1)
    with pytest.raises(KeyboardInterrupt), run.at_work():
        raise KeyboardInterrupt
    assert run.error is None
