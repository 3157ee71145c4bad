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


def test_inherited_entries_are_those_that_were_chosen_for_the_supernet(make: Make) -> None:
    few, space = {"epochs": 1, "warmup_epochs": 0}, {"methods": {"sparse": {"blocks": [0, 5], "sizes": [0, 20, 40]}}}
    config = make(space=space, supernet=few, train=few | {"batch_size": 400})
    supernet = SupernetRun(config).supernet
    for module in supernet.tuning.modules():
        if hasattr(module, "index"):
            module.index.add_(1)  # not what the backbone alone would choose
    inherited = supernet.inherited(supernet.largest)
    run = TrainingRun(config, supernet.largest, 0, initial=inherited)
    state = tuned_state_dict(run.model)
    assert all(torch.equal(state[key], value) for key, value in inherited.items())
