from collections.abc import Callable

import pytest
import torch

from petlas.petl import Design, tuned_state_dict
from petlas.search.config import RunConfig
from petlas.search.record import BASELINE, FINALIST, SCORE
from petlas.search.scoring import ScoringRun
from petlas.search.supernet import SupernetRun, load_supernet
from petlas.search.training import TrainingRun
from petlas.search.work import open_work

Make = Callable[..., RunConfig]


@pytest.fixture
def trained(make: Make) -> Callable[[bool], RunConfig]:
    def trained(inherit: bool) -> RunConfig:
        few = {"epochs": 1, "warmup_epochs": 0}
        config = make(strategy="supernet", supernet=few, train=few | {"batch_size": 400}, search={"inherit": inherit})
        run = SupernetRun(config)
        while not run.finished:
            run.epoch()
        return config

    return trained


def test_the_supernets_weights_are_where_training_starts_if_the_run_says_so(
    trained: Callable[[bool], RunConfig], lora: Callable[..., Design]
) -> None:
    design = lora(b0=1, b5=2)
    for inherit in (True, False):
        config = trained(inherit)
        slices = load_supernet(config).inherited(design)
        for stage, expected in ((FINALIST, inherit), (BASELINE, False)):
            work = open_work(config, design, stage)
            assert isinstance(work, TrainingRun)
            state = tuned_state_dict(work.model)
            assert all(torch.equal(state[key], value) for key, value in slices.items()) is expected


def test_a_score_is_one_measured_epoch(trained: Callable[[bool], RunConfig], lora: Callable[..., Design]) -> None:
    work = open_work(trained(False), lora(b0=1), SCORE)
    assert isinstance(work, ScoringRun)
    assert not work.finished
    result = work.epoch()
    assert work.finished
    assert 0 <= result.val <= 1
    assert result.seconds > 0
