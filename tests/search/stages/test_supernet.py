import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from petlas.petl import Design, tuned_state_dict
from petlas.search.run_folder import RunError
from petlas.search.runners.inline import opened
from petlas.search.stages.rounds import Rounds, Turns
from petlas.search.stages.supernet import SupernetRun, SupernetStage, load_supernet, shared_supernet
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]
FEW = {"train": {"epochs": 1, "batch_size": 80, "warmup_epochs": 0}, "strategy": "supernet"}


@pytest.fixture
def bench(bench: Bench, few_digits: str) -> Bench:
    """The workbench of a run on some of the digits."""
    return lambda **groups: bench(**groups | {"task": {"name": few_digits} | groups.get("task", {})})


@pytest.fixture
def supernet(bench: Bench) -> Bench:
    """The workbench of a run with a supernet."""

    def supernet(name: str = "run", **settings: Any) -> Workbench:
        return bench(name=name, **FEW, supernet={"epochs": 2, "warmup_epochs": 0} | settings)

    return supernet


def weights(run: SupernetRun) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in tuned_state_dict(run.supernet.model).items()}


def record_of_designs(run: SupernetRun, monkeypatch: pytest.MonkeyPatch) -> list[Design]:
    seen: list[Design] = []
    activate = run.supernet.activate
    monkeypatch.setattr(run.supernet, "activate", lambda design: seen.append(design) or activate(design))
    return seen


def test_single_path_trains_one_random_design_in_each_step(supernet: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SupernetRun(supernet(sampling="single"))
    seen = record_of_designs(run, monkeypatch)
    first, second = run.epoch(), run.epoch()
    assert (first.epoch, second.epoch, run.finished) == (1, 2, True)
    assert len(seen) == 4  # 160 images in batches of 80
    assert all(design in run.space for design in seen)


def test_the_sandwich_trains_the_largest_the_smallest_and_random_ones(
    supernet: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SupernetRun(supernet(sampling="sandwich", random=3))
    seen = record_of_designs(run, monkeypatch)
    run.epoch()
    assert len(seen) == 2 * 5
    for step in (seen[:5], seen[5:]):
        assert step[:2] == [run.space.largest, run.space.smallest]


def test_in_the_sandwich_only_the_largest_sees_labels(supernet: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SupernetRun(supernet(sampling="sandwich", random=2))
    labelled: list[torch.Tensor] = []
    taught: list[torch.Tensor] = []
    loss, distil = run.objective.loss, run.objective.distil
    monkeypatch.setattr(run.objective, "loss", lambda x, y, smoothing: labelled.append(y) or loss(x, y, smoothing))
    monkeypatch.setattr(run.objective, "distil", lambda x, target: taught.append(target) or distil(x, target))
    run.epoch()
    assert [target.shape for target in labelled] == [(80,)] * 2  # one in each step
    assert len(taught) == 2 * 3
    assert all(target.shape == (80, 10) and not target.requires_grad for target in taught)
    for target in taught:
        torch.testing.assert_close(target.sum(1), torch.ones(80))


def test_designs_are_within_the_budget_and_even_over_parameters_where_asked(bench: Bench) -> None:
    space = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 4, 16]}}}
    limit, counts = 20_000, {}
    for draw in ("designs", "params"):
        run = SupernetRun(bench(**FEW, space=space, supernet={"draw": draw}, budget={"params": limit}))
        run.rng = np.random.default_rng(0)
        counts[draw] = sorted(run.budget.cost(run.draw()) for _ in range(300))
        assert counts[draw][-1] <= limit
    evenly = [limit * (i + 0.5) / 300 for i in range(300)]
    gaps = {draw: max(abs(a - b) for a, b in zip(values, evenly, strict=True)) for draw, values in counts.items()}
    assert gaps["params"] < 0.2 * limit < gaps["designs"]


@pytest.mark.parametrize("sampling", ["single", "sandwich"])
def test_a_run_that_is_cut_off_goes_on_at_its_last_epoch_and_ends_as_if_it_had_not_been(
    supernet: Bench, bench: Bench, sampling: str
) -> None:
    found = supernet(sampling=sampling)
    whole = SupernetRun(supernet("whole", sampling=sampling))
    losses = [whole.epoch().loss, whole.epoch().loss]
    cut = SupernetRun(found)
    assert cut.epoch().loss == losses[0]
    with pytest.raises(RunError, match="repeat petlas search"):
        load_supernet(found)
    again = SupernetRun(found)
    assert again.progress.epochs == 1
    assert again.epoch().loss == losses[1]
    assert weights(again).keys() == weights(whole).keys()
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(again)[key]), key
    third = SupernetRun(found)
    assert third.finished
    loaded = tuned_state_dict(load_supernet(found).model)
    assert all(torch.equal(value, loaded[key]) for key, value in weights(whole).items())


@pytest.mark.parametrize(
    "other",
    [
        {"supernet": {"lr": 0.5}},
        {"train": {"weight_decay": 0.5}},
        {"seed": 1},
        {"budget": {"params": 500}},
        {"space": {"methods": {"lora": {"blocks": [0, 5], "sizes": [0, 2]}}}},
        {"task": {"metric": "mean_per_class"}},
    ],
)
def test_a_supernet_is_taken_up_where_all_that_determines_its_numbers_is_equal(
    bench: Bench, other: dict[str, Any]
) -> None:
    """A metric that nothing learns from does not determine them."""
    own = {"supernet": {"epochs": 1, "warmup_epochs": 0}}
    SupernetRun(bench(**FEW, **own)).epoch()
    groups: dict[str, Any] = {**FEW, **own}
    for key, value in other.items():
        groups[key] = groups[key] | value if key in ("supernet", "train") else value
    changed = bench(**groups)
    assert SupernetRun(changed).progress.epochs == ("task" in other)
    if "task" not in other:
        with pytest.raises(RunError, match="must hold a trained supernet"):
            load_supernet(changed)


def test_methods_that_fit_themselves_see_every_class_in_the_first_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def prepare(model: torch.nn.Module, batches: Any, loss: Any) -> None:
        seen.extend(targets for _, targets in batches)

    monkeypatch.setattr("petlas.search.stages.supernet.prepare", prepare)
    few = FEW | {"task": {"name": "digits"}, "train": {"batch_size": 10}}
    SupernetRun(bench(**few))
    assert len(torch.cat(seen)) == 800
    assert torch.bincount(torch.cat(seen[:16]), minlength=10).min() >= 8  # some methods look at the first ones only


def test_the_stage_trains_what_is_left_and_tells_each_epoch(
    supernet: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    found = supernet()
    SupernetRun(found).epoch()
    assert SupernetStage(found, needed=False).exhausted()
    stage = SupernetStage(found, needed=True)
    assert not stage.exhausted()
    with caplog.at_level(logging.INFO, "petlas"), opened([found]) as runner:
        runner.run(Rounds([Turns(found, lambda: iter([stage]))]))
    assert "epoch 2/2" in caplog.text
    assert "epoch 1/2" not in caplog.text
    assert SupernetRun(found).finished


def test_a_supernet_that_diverges_is_named(supernet: Bench) -> None:
    config = supernet(lr=1e30).config
    config = config.model_copy(update={"train": config.train.model_copy(update={"clip_grad": None})})
    run = SupernetRun(Workbench(config))
    with pytest.raises(RunError, match=r"diverged.*lower supernet\.lr"):
        while not run.finished:
            assert isinstance(run.epoch(), EpochResult)


def test_the_optimiser_holds_the_supernet_and_the_head_alone(supernet: Bench) -> None:
    run = SupernetRun(supernet())
    held = {id(p) for group in run.optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.supernet.tuning.parameters()}


def test_inherited_entries_are_those_that_were_chosen_for_the_supernet(bench: Bench) -> None:
    few, space = {"epochs": 1, "warmup_epochs": 0}, {"methods": {"sparse": {"blocks": [0, 5], "sizes": [0, 20, 40]}}}
    found = bench(space=space, supernet=few, train=few | {"batch_size": 80})
    supernet = SupernetRun(found).supernet
    for module in supernet.tuning.modules():
        if hasattr(module, "index"):
            module.index.add_(1)  # not what the backbone alone would choose
    inherited = supernet.inherited(supernet.largest)
    run = TrainingRun(found, Candidate(supernet.largest), Fidelity(1, 0), initial=inherited)
    state = tuned_state_dict(run.model)
    assert all(torch.equal(state[key], value) for key, value in inherited.items())


def test_a_runs_supernet_is_read_once_in_a_process(supernet: Bench) -> None:
    found = supernet(epochs=1)
    SupernetRun(found).epoch()
    assert shared_supernet(found) is shared_supernet(found)
