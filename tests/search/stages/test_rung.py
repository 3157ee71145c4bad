import math
from collections.abc import Callable
from typing import Any

import pytest

from petlas.petl import Design
from petlas.search.identity import claim
from petlas.search.stages.rung import RungStage
from petlas.search.strategies.base import Search
from petlas.search.study import Entry
from petlas.search.training import EpochResult, Fidelity
from petlas.spaces import Candidate

Searching = Callable[..., Search]
Start = Callable[..., RungStage]


@pytest.fixture
def start(searching: Searching, lora: Callable[..., Design]) -> Start:
    """The stage of three short trainings on a fold, from where the study stands."""

    def start(late: bool = False, **more: Any) -> RungStage:
        search = searching(train={"epochs": 6})
        claim(search.record, search.bench)
        fidelity = Fidelity(2, 0, 1, 5)
        queue = [Entry(Candidate(lora(b0=size)), fidelity, "portfolio", size) for size in (1, 2, 3)]
        return RungStage(search.bench, search.record, queue, lambda: late, **more)

    return start


def train(stage: RungStage, *losses: float) -> str:
    """What becomes of the next training with these losses."""
    number = stage.begin(stage.propose()).number
    result = None
    for epoch, loss in enumerate(losses, 1):
        result = EpochResult(epoch, loss, loss if math.isnan(loss) else 0.5, 0.1)
        if not stage.on_epoch(number, result):
            break
    stage.on_end(number, result)
    trial = stage.record.trials()[number]
    return f"{trial.state.name} {trial.user_attrs['epochs']}"


def test_all_of_it_is_trained_once_and_what_diverges_is_stopped(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        stage = start(usual=[1.0, 1.0, 1.0], opening="here we go", closing=lambda: "done")
        stage.on_open()
        assert [train(stage, 1.5, 0.9), train(stage, 2.5, 0.1), train(stage, 0.9, math.nan)] == [
            "PRUNED 2", "PRUNED 1", "FAIL 2",
        ]  # fmt: skip
        assert stage.exhausted()
        stage.on_close()
    assert "here we go" in caplog.messages
    assert caplog.messages[-1] == "done"
    assert start().exhausted()


def test_it_goes_on_where_it_was_cut_off_and_nothing_begins_when_time_is_up(start: Start) -> None:
    stage = start()
    train(stage, 1.0, 0.9)
    stage.begin(stage.propose())
    again = start()
    assert [entry.params for entry in again.queued] == [2, 3]
    assert not again.exhausted()
    assert start(late=True).exhausted()
