"""A search that is cut off ends as if it had not been: under every sampler, and at every moment of a trial."""

from collections.abc import Callable
from typing import Any

import pytest
from study_cases import by_size, trials, tried

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.samplers import SAMPLERS
from petlas.search.stages import training_run as run_module
from petlas.search.stages.training_run import TrainingRun
from petlas.search.study import StudyRecord, is_interrupted

Make = Callable[..., RunConfig]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_wherever_a_search_is_cut_off_it_ends_as_if_it_had_not_been(make: Make, training: Any, sampler: str) -> None:
    """What is drawn, also after the samplers' random beginnings, what is stopped, and every value."""
    options = {
        "space": {
            "methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}},
            "settings": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        },
        "search": {
            "sampler": sampler,
            "trials": 18,
            "baselines": True,
            "evolution": {"population": 5, "parents": 2, "mutations": 2, "crossovers": 2},
        },
        "train": {"epochs": 9},
    }
    whole, cut = (make(name=name, **options) for name in ("whole", "cut"))
    training.curve = by_size
    search(whole)
    assert {found.state for found in tried(whole)} == {"COMPLETE", "PRUNED"}
    training.started.clear()
    for trial, epoch in ((4, 2), (11, 1), (13, 1), (17, 1)):

        def interrupt(design: Design, now: int, trial: int = trial, epoch: int = epoch) -> float:
            if (len(tried(cut)), now) == (trial + 1, epoch):
                raise KeyboardInterrupt
            return by_size(design, now)

        training.curve = interrupt
        with pytest.raises(KeyboardInterrupt):
            search(cut)
    training.curve = by_size
    search(cut)
    assert tried(cut) == tried(whole)
    assert len(training.started) == 18 + 4
    assert [t.state.name for t in trials(cut) if is_interrupted(t)] == ["FAIL"] * 4


def cut_at(monkeypatch: pytest.MonkeyPatch, when: str, trial: int) -> None:
    """Let the process end in a trial's first epoch: before its steps, before its measurement, or when it is told."""
    seen: list[Any] = []

    def end(*_: Any) -> Any:
        raise KeyboardInterrupt

    if when == "told":
        report = StudyRecord.report

        def report_and_end(record: StudyRecord, number: int, epoch: int, value: float) -> None:
            report(record, number, epoch, value)
            if (number, epoch) == (trial, 1):
                end()

        monkeypatch.setattr(StudyRecord, "report", report_and_end)
        return
    owner, name = (TrainingRun, "train_epoch") if when == "started" else (run_module, "evaluate")
    inner = getattr(owner, name)

    def counted(of: Any, *args: Any) -> Any:
        """`of` is one object in all epochs of a trial."""
        if not seen or seen[-1] is not of:
            seen.append(of)
            if len(seen) == trial + 1:
                end()
        return inner(of, *args)

    monkeypatch.setattr(owner, name, counted)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("when", "state"), [("started", "COMPLETE"), ("trained", "COMPLETE"), ("told", "COMPLETE"), ("told", "PRUNED")]
)
def test_a_search_that_is_killed_in_an_epoch_ends_as_if_it_had_not_been(
    make: Make,
    few_digits: str,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, Any],
    when: str,
    state: str,
) -> None:
    """TPE, which learns from what was stopped, and halving, which compares with it: to the last digit.

    Also where a trial was to be stopped, and the process ended before it was.
    """
    options = {
        "task": {"name": few_digits},
        "space": {"methods": {"lora": {"blocks": [0, 5], "sizes": [0, 1, 2]}}, "settings": {"lr": [1e-5, 2e-3, 5e-3]}},
        "search": {"sampler": "tpe", "trials": 5, "grace_epochs": 1},
        "train": {"epochs": 2, "batch_size": 40},
    }
    if not uninterrupted:
        whole = make(name="whole", **options)
        search(whole)
        uninterrupted["tried"] = tried(whole)
    assert {found.state for found in uninterrupted["tried"]} == {"COMPLETE", "PRUNED"}
    states = [found.state for found in uninterrupted["tried"]]
    trial = states.index(state, 1)
    cut = make(name="cut", **options)
    with monkeypatch.context() as patch:
        cut_at(patch, when, trial)
        with pytest.raises(KeyboardInterrupt):
            search(cut)
    assert len(tried(cut)) == trial
    search(cut)
    assert tried(cut) == uninterrupted["tried"]
    assert not (cut.folder / "checkpoints").exists()
