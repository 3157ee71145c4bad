from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from petlas.petl import Design, tuned_state_dict
from petlas.search.config import RunConfig
from petlas.search.run_folder import RunError
from petlas.search.supernet import SupernetRun, load_supernet
from petlas.search.training import EpochResult

Make = Callable[..., RunConfig]
FEW = {
    "task": {"name": "digits"},
    "train": {"epochs": 1, "batch_size": 400, "warmup_epochs": 0},
    "strategy": "supernet",
}


@pytest.fixture
def supernet(make: Make) -> Callable[..., RunConfig]:
    def supernet(**settings: Any) -> RunConfig:
        return make(**FEW, supernet={"epochs": 2, "warmup_epochs": 0} | settings)

    return supernet


def weights(run: SupernetRun) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in tuned_state_dict(run.supernet.model).items()}


def record_of_designs(run: SupernetRun, monkeypatch: pytest.MonkeyPatch) -> list[Design]:
    seen: list[Design] = []
    activate = run.supernet.activate
    monkeypatch.setattr(run.supernet, "activate", lambda design: seen.append(design) or activate(design))
    return seen


def test_single_path_trains_one_random_design_in_each_step(
    supernet: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SupernetRun(supernet(sampling="single"))
    seen = record_of_designs(run, monkeypatch)
    first, second = run.epoch(), run.epoch()
    assert (first.epoch, second.epoch, run.finished) == (1, 2, True)
    assert len(seen) == 4  # 800 images in batches of 400
    assert all(design in run.space for design in seen)


def test_the_sandwich_trains_the_largest_the_smallest_and_random_ones(
    supernet: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SupernetRun(supernet(sampling="sandwich", random=3))
    seen = record_of_designs(run, monkeypatch)
    run.epoch()
    assert len(seen) == 2 * 5
    for step in (seen[:5], seen[5:]):
        assert step[:2] == [run.space.largest, run.space.smallest]


def test_in_the_sandwich_only_the_largest_sees_labels(
    supernet: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SupernetRun(supernet(sampling="sandwich"))
    targets: list[torch.Tensor] = []
    learn = run._learn
    monkeypatch.setattr(run, "_learn", lambda design, x, target: targets.append(target) or learn(design, x, target))
    run.epoch()
    assert all(target.shape == (400, 10) and not target.requires_grad for target in targets)
    for target in targets:
        torch.testing.assert_close(target.sum(1), torch.ones(400))


def test_designs_are_within_the_budget_and_even_over_parameters_where_asked(make: Make) -> None:
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 4, 16]}}}
    limit, counts = 20_000, {}
    for draw in ("designs", "params"):
        run = SupernetRun(make(**FEW, space=space, supernet={"draw": draw}, budget={"params": limit}))
        run.rng = np.random.default_rng(0)
        counts[draw] = sorted(run.budget.cost(run.draw()) for _ in range(300))
        assert counts[draw][-1] <= limit
    evenly = [limit * (i + 0.5) / 300 for i in range(300)]
    gaps = {draw: max(abs(a - b) for a, b in zip(values, evenly, strict=True)) for draw, values in counts.items()}
    assert gaps["params"] < 0.2 * limit < gaps["designs"]


@pytest.mark.parametrize("sampling", ["single", "sandwich"])
def test_a_run_that_is_cut_off_goes_on_at_its_last_epoch_and_ends_as_if_it_had_not_been(
    supernet: Callable[..., RunConfig], make: Make, sampling: str
) -> None:
    config = supernet(sampling=sampling)
    whole = SupernetRun(config.model_copy(update={"name": "whole"}))
    losses = [whole.epoch().loss, whole.epoch().loss]
    cut = SupernetRun(config)
    assert cut.epoch().loss == losses[0]
    with pytest.raises(RunError, match="repeat petlas search"):
        load_supernet(config)
    again = SupernetRun(config)
    assert again.progress.epochs == 1
    assert again.epoch().loss == losses[1]
    assert weights(again).keys() == weights(whole).keys()
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(again)[key]), key
    third = SupernetRun(config)
    assert third.finished
    loaded = tuned_state_dict(load_supernet(config).model)
    assert all(torch.equal(value, loaded[key]) for key, value in weights(whole).items())


def test_a_supernet_that_diverges_is_named(supernet: Callable[..., RunConfig]) -> None:
    config = supernet(lr=1e30)
    config = config.model_copy(update={"train": config.train.model_copy(update={"clip_grad": None})})
    run = SupernetRun(config)
    with pytest.raises(RunError, match=r"diverged.*lower supernet\.lr"):
        while not run.finished:
            assert isinstance(run.epoch(), EpochResult)


def test_the_optimiser_holds_the_supernet_and_the_head_alone(supernet: Callable[..., RunConfig]) -> None:
    run = SupernetRun(supernet())
    held = {id(p) for group in run._optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.supernet.tuning.parameters()}
