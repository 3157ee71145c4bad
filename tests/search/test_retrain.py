import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from petlas.datasets import open_task
from petlas.petl.adapter_file import load_adapter, read_adapter_info
from petlas.petl.design import Design, DesignError
from petlas.search import retrain as retrain_module
from petlas.search import training as training_module
from petlas.search.config import RunConfig
from petlas.search.record import StudyRecord
from petlas.search.retrain import choose, retrain, retrain_baselines
from petlas.search.run_folder import RunError, opened
from petlas.search.training import TrainingRun, evaluate, load_split, pick_device

Make = Callable[..., RunConfig]
Lora = Callable[..., Design]
TEST, TRAINVAL = 797, 1000


@pytest.fixture
def config(make: Make) -> RunConfig:
    """A run with a fast training and an open folder."""
    config = make(train={"epochs": 1, "lr": 5e-3, "batch_size": 128})
    with opened(config):
        return config


def test_retraining_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(
    make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train": {"epochs": 2, "batch_size": 250, "warmup_epochs": 0}}
    whole = retrain(make(name="whole", **settings), lora(b0=1), seeds=2)
    config = make(name="cut", **settings)
    trained: list[int] = []
    train_epoch = TrainingRun.train_epoch

    def cut(run: TrainingRun) -> None:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run.progress.epochs)
        train_epoch(run)

    monkeypatch.setattr(TrainingRun, "train_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        retrain(config, lora(b0=1), seeds=2)
    assert len(list((config.folder / "checkpoints").iterdir())) == 2
    trained[:] = [-3, -2]  # room for the one epoch that is left
    assert retrain(config, lora(b0=1), seeds=2).tests == whole.tests
    assert trained == [-3, -2, 1]
    assert not (config.folder / "checkpoints").exists()


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the splits that are opened, in order."""
    sizes: list[int] = []
    open_store = training_module.open_store

    def spy(split: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(split))
        return open_store(split, *args, **options)

    monkeypatch.setattr(training_module, "open_store", spy)
    return sizes


def add(config: RunConfig, design: Design, val: float | None, stage: str = "search", epochs: int = 1) -> int:
    record = StudyRecord.in_folder(config.folder)
    trial = record.study.ask()
    record.describe(trial, design, 10, stage, 0)
    if val is not None:
        record.report(trial.number, 1, val)
    record.finish(trial.number, epochs, val, epochs == config.train.epochs, 1.0)
    return trial.number


def test_retraining_reads_the_test_split_once_per_seed_after_training_on_train_and_val(
    config: RunConfig, lora: Lora, stores: list[int]
) -> None:
    outcome = retrain(config, lora(b0=1), seeds=2, val=0.75)
    assert stores == [TRAINVAL, TEST] * 2
    assert outcome.seeds == [0, 1]
    assert len(set(outcome.tests)) == 2
    assert outcome.test_mean == pytest.approx(sum(outcome.tests) / 2)
    assert outcome.test_std == pytest.approx(abs(outcome.tests[0] - outcome.tests[1]) / math.sqrt(2))
    assert (outcome.params, outcome.val) == (512, 0.75)

    best = config.folder / "best"
    assert Design.load(best / "design.yaml") == lora(b0=1)
    assert json.loads((best / "metrics.json").read_text()) == outcome.__dict__
    assert f"{100 * outcome.test_mean:.1f}" in (best / "card.md").read_text()

    info = read_adapter_info(best / "adapter.safetensors")
    task = open_task("digits")
    assert info.design == lora(b0=1)
    assert info.classes == task.classes
    assert info.task == {"name": "digits", "fingerprint": task.fingerprint}
    assert info.score == {"test": outcome.tests[0], "val": 0.75}  # the first seed's, whatever the test says
    model = load_adapter(best / "adapter.safetensors")
    data = load_split(config, task, "test", info.input, pick_device())
    assert evaluate(model, data) == outcome.tests[0]


def test_retraining_gives_the_same_numbers_twice_from_the_runs_own_seed_on(make: Make, lora: Lora) -> None:
    config = make(seed=5, train={"epochs": 1, "batch_size": 500})
    first, again = (retrain(config, lora(), seeds=1) for _ in range(2))
    assert first == again
    assert first.seeds == [5]
    assert first.test_std == 0.0
    assert "val" not in read_adapter_info(config.folder / "best" / "adapter.safetensors").score


class Scripted:
    """Stands in for `TrainingRun`."""

    loss, accuracy = 1.0, 0.5

    def __init__(
        self, config: RunConfig, design: Design, seed: int, train_split: str, val_split: None, checkpoints: Path
    ) -> None:
        assert (train_split, val_split, checkpoints) == ("trainval", None, config.folder / "checkpoints")
        self.model, self.finished, self.seed = None, False, seed

    def epoch(self) -> training_module.EpochResult:
        self.finished = True
        return training_module.EpochResult(1, self.loss, math.nan, 0.1)

    def test(self) -> float:
        return self.accuracy + self.seed / 100


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    class Mine(Scripted):
        pass

    monkeypatch.setattr(retrain_module, "TrainingRun", Mine)
    return Mine


@pytest.mark.parametrize(("loss", "accuracy"), [(math.nan, 0.5), (math.inf, 0.5), (1.0, math.nan)])
def test_a_training_that_diverges_is_an_error_and_leaves_no_adapter(
    config: RunConfig, lora: Lora, scripted: type[Scripted], loss: float, accuracy: float
) -> None:
    scripted.loss, scripted.accuracy = loss, accuracy
    with pytest.raises(RuntimeError, match=r"diverged.*lower train\.lr"):
        retrain(config, lora(b0=1), seeds=1)
    assert not (config.folder / "best" / "adapter.safetensors").exists()


def test_the_baselines_that_came_to_their_end_are_retrained_in_the_same_way(
    config: RunConfig, lora: Lora, scripted: type[Scripted]
) -> None:
    everywhere = lora(b0=1, b1=1, b2=1, b3=1, b4=1, b5=1)
    add(config, Design((), config.backbone.name), 0.3, "baseline")
    add(config, everywhere, 0.6, "baseline")
    add(config, lora(b0=2), None, "baseline")  # failed
    add(config, lora(b5=2), 0.9)  # no baseline
    outcomes = retrain_baselines(config, seeds=3)
    assert [(o.name, o.val, o.params) for o in outcomes] == [("linear", 0.3, 0), ("lora", 0.6, 6 * 512)]
    assert all(o.tests == pytest.approx([0.5, 0.51, 0.52]) for o in outcomes)
    assert outcomes[0].test_std == pytest.approx(float(np.std([0.5, 0.51, 0.52], ddof=1)))
    written = json.loads((config.folder / "baselines.json").read_text())
    assert [o["name"] for o in written] == ["linear", "lora"]
    assert not (config.folder / "best").exists()


def test_the_best_trial_is_chosen_by_the_selection_split(config: RunConfig, lora: Lora) -> None:
    add(config, lora(b0=1), 0.5)
    add(config, lora(b0=2), 0.7)
    add(config, lora(b5=1), 0.9, epochs=0)  # stopped early
    assert choose(config) == (lora(b0=2), 0.7)


def test_a_trial_is_chosen_by_its_number_even_if_it_was_stopped_early(config: RunConfig, lora: Lora) -> None:
    add(config, lora(b0=1), 0.5)
    number = add(config, lora(b5=1), 0.9, epochs=0)
    assert choose(config, trial=number) == (lora(b5=1), 0.9)
    with pytest.raises(RunError, match="--trial must be a trial of"):
        choose(config, trial=99)


def test_a_study_without_a_finished_trial_has_nothing_to_retrain(config: RunConfig, lora: Lora) -> None:
    add(config, lora(b0=1), None)
    with pytest.raises(RunError, match="needs a finished trial"):
        choose(config)


def test_a_design_file_is_chosen_if_it_is_for_the_runs_backbone(config: RunConfig, lora: Lora, tmp_path: Path) -> None:
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(lora(b0=1).to_dict()))
    assert choose(config, file=path) == (lora(b0=1), None)
    path.write_text("placements: [{method: lora, block: 0, size: 1}]")
    assert choose(config, file=path)[0].placements == lora(b0=1).placements
    path.write_text("{backbone: vit_base_patch16_224, placements: []}")
    with pytest.raises(RunError, match="vit_base_patch16_224"):
        choose(config, file=path)
    with pytest.raises(DesignError, match="cannot read"):
        choose(config, file=tmp_path / "none.yaml")


def test_a_design_that_does_not_fit_is_refused_before_training(config: RunConfig, lora: Lora) -> None:
    with pytest.raises(DesignError, match=r"0\.\.5"):
        retrain(config, lora(b6=1), seeds=1)
