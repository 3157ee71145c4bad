import json
import logging
import math
from collections.abc import Callable

import pytest

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.stages.losses import MOST_LOSSES
from petlas.search.stages.retrain import TEST_READS, RetrainStage, Wanted
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Stages = Callable[..., RetrainStage]


@pytest.fixture
def stage(make: Callable[..., RunConfig], lora: Callable[..., Design]) -> RetrainStage:
    """Two seeds of one candidate, the first of them under two names."""
    bench = Workbench(make(train={"epochs": 2}, resources={"trial_timeout": 5}))
    candidate = Candidate(lora(b0=1))
    named = (("lora", 0), ("found", 0), ("found", 1))
    return RetrainStage(bench, [Wanted(name, candidate, seed, 0.5) for name, seed in named])


def epoch(number: int, val: float = math.nan, loss: float = 1.0) -> EpochResult:
    return EpochResult(number, loss, val, 0.1)


def test_each_seed_is_trained_once_under_whatever_name_and_its_reading_noted_before_it_is_tested(
    stage: RetrainStage,
) -> None:
    assert (stage.left, stage.limit) == (2, None)
    first, second = stage.propose(), stage.propose()
    assert stage.exhausted()
    assert [each.tried.fidelity.seed for each in (first, second)] == [0, 1]
    assert first.notes["score"] == {"val": 0.5}
    noted = stage.bench.config.folder / TEST_READS
    assert stage.on_epoch(second.number, epoch(1))
    assert not noted.exists()
    assert stage.on_epoch(second.number, epoch(2))
    assert [read["seed"] for read in json.loads(noted.read_text())] == [1]
    stage.on_end(second.number, epoch(3, 0.75))
    assert list(stage.tests.values()) == [0.75]


def test_a_seed_whose_worker_dies_is_trained_again_up_to_a_limit(
    stage: RetrainStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    number = stage.propose().number
    with caplog.at_level(logging.WARNING, "petlas"):
        stage.on_lost(number, "")  # as nothing against it
    assert not caplog.text
    for _ in range(MOST_LOSSES - 1):
        assert stage.propose().number == number
        stage.on_lost(number, "the worker died")
    stage.propose()
    stage.on_epoch(number, epoch(1))
    stage.on_starved(number, "the memory was full")
    assert stage.propose().alone
    stage.on_lost(number, "the worker died")
    for _ in range(MOST_LOSSES - 1):
        stage.propose()
        stage.on_lost(number, "the worker died")
    with pytest.raises(RuntimeError, match=f"lora with seed 0: the worker died, {MOST_LOSSES} times"):
        stage.on_lost(number, "the worker died")


def test_what_is_wrong_with_a_seed_is_told_with_its_name(stage: RetrainStage) -> None:
    number = stage.propose().number
    with pytest.raises(RuntimeError, match=r"lora with seed 0 diverged in epoch 1; lower train\.lr"):
        stage.on_epoch(number, epoch(1, loss=math.inf))
    with pytest.raises(RuntimeError, match="lora with seed 0: ValueError: shapes"):
        stage.on_end(number, None, "ValueError: shapes")
    stage.on_fault(number, "no space left")
    assert (stage.fault, stage.exhausted()) == ("no space left", True)
