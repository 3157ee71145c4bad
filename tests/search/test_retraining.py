import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import petlas
from petlas.errors import UserError
from petlas.petl.adapter_file import load_adapter, read_adapter_info
from petlas.petl.design import Design, DesignError
from petlas.search import workbench as workbench_module
from petlas.search.config import RunConfig
from petlas.search.predictions import About, missed_by_all, read_pictures, read_predictions
from petlas.search.retraining import choose, retrain, retrain_with_baselines
from petlas.search.run_files import Files
from petlas.search.run_folder import RunError, opened
from petlas.search.stages import retrain as retrain_module
from petlas.search.stages.retrain import TEST_READS, adapter_name
from petlas.search.stages.training_run import TrainingRun
from petlas.search.study import Ending, Entry, StudyRecord
from petlas.search.training import EpochResult, Fidelity, evaluate
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate, SpaceError

Make = Callable[..., RunConfig]
Lora = Callable[..., Design]
TEST, TRAINVAL = 120, 240


@pytest.fixture
def make(make: Make, few_digits: str) -> Make:
    """A run on some of the digits."""
    return lambda **groups: make(**{"task": {"name": few_digits}} | groups)


@pytest.fixture
def config(make: Make) -> RunConfig:
    """A run with a fast training and an open folder."""
    config = make(train={"epochs": 1, "lr": 5e-3, "batch_size": 32})
    with opened(config):
        return config


def test_retraining_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(
    make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole seeds are kept, and the one that was cut off goes on at its last whole epoch."""
    settings = {"train": {"epochs": 2, "batch_size": 60, "warmup_epochs": 0}}
    candidate = Candidate(lora(b0=1))
    whole = retrain(make(name="whole", **settings), candidate, seeds=2)
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
        retrain(config, candidate, seeds=2)
    assert len(list((config.folder / "checkpoints").iterdir())) == 1
    assert len(list((config.folder / "retrained").iterdir())) == 1
    trained[:] = [-3, -2]  # room for the one epoch that is left
    assert retrain(config, candidate, seeds=2).tests == whole.tests
    assert trained == [-3, -2, 1]
    assert not list((config.folder / "checkpoints").glob("*"))
    reads = json.loads((config.folder / TEST_READS).read_text())
    assert [read["seed"] for read in reads] == [0, 1]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the views whose images are looked at, in order."""
    sizes: list[int] = []
    batches = Workbench.batches

    def spy(bench: Workbench, view: Any, *args: Any) -> Any:
        sizes.append(len(view))
        return batches(bench, view, *args)

    monkeypatch.setattr(workbench_module.Workbench, "batches", spy)
    return sizes


def add(config: RunConfig, design: Design, val: float | None, stage: str = "search", epochs: int = 1) -> int:
    record = StudyRecord.create(config.folder)
    entry = Entry(Candidate(design), Fidelity(config.train.epochs, 0), stage, 10)
    number = record.begin(entry, {}, {}, {})
    if val is not None:
        record.report(number, 1, val)
    record.finish(number, Ending(epochs, val, 1.0))
    return number


def test_retraining_reads_the_test_split_once_per_seed_after_training_on_train_and_val(
    config: RunConfig, lora: Lora, reads: list[int]
) -> None:
    candidate = Candidate(lora(b0=1))
    outcome = retrain(config, candidate, seeds=2, val=0.75)
    assert reads.count(TEST) == 2
    assert [size for size in reads if size in (TRAINVAL, TEST)][-1] == TEST
    first, second = (i for i, size in enumerate(reads) if size == TEST)
    # The first seed also keeps what the untouched blocks compute, and the second one finds it there.
    assert reads[:first].count(TRAINVAL) == reads[first:second].count(TRAINVAL) + 1 >= 2
    assert outcome.seeds == [0, 1]
    assert len(set(outcome.tests)) == 2
    assert outcome.test_mean == pytest.approx(sum(outcome.tests) / 2)
    assert outcome.test_std == pytest.approx(abs(outcome.tests[0] - outcome.tests[1]) / math.sqrt(2))
    assert (outcome.params, outcome.val) == (512, 0.75)

    best = config.folder / "best"
    assert Candidate.load(best / "design.yaml") == candidate
    metrics = json.loads((best / "metrics.json").read_text())
    assert {key: metrics[key] for key in asdict(outcome)} == asdict(outcome)
    assert (metrics["metric"]["name"], metrics["seed"], metrics["split_seed"]) == ("accuracy", 0, 0)
    assert metrics["versions"]["petlas"] == petlas.__version__
    assert f"{100 * outcome.test_mean:.1f}" in (best / "card.md").read_text()

    adapter = best / "adapter.safetensors"
    info = read_adapter_info(adapter)
    bench = Workbench(config)
    assert info.design == lora(b0=1)
    assert info.classes == bench.task.classes
    assert {"name": "digits", "fingerprint": bench.task.fingerprint}.items() <= info.task.items()
    assert (info.kind, info.metric) == ("single_label", "accuracy")
    assert info.score == {"test": outcome.tests[0], "val": 0.75}  # the first seed's, whatever the test says
    model = load_adapter(adapter)
    assert evaluate(model, bench.batches(bench.task.views["test"]), bench.objective) == outcome.tests[0]
    assert adapter.read_bytes() == (config.folder / adapter_name(candidate, 0)).read_bytes()

    view = bench.task.views["test"]  # what was said when it was read is kept, image by image
    kept = read_predictions(config.folder)
    assert [1 - one.wrong.mean() for one in kept] == pytest.approx(outcome.tests)
    assert [one.about for one in kept] == [
        About("found", candidate.key, seed, bench.fingerprint(view)) for seed in (0, 1)
    ]
    assert kept[0].images[5] == view.source.name(int(view.indices[5]))
    assert kept[0].targets.tolist() == view.targets.tolist()
    missed = missed_by_all(kept)
    assert [*read_pictures(config.folder, bench.fingerprint(view))] == missed[:12]


def test_retraining_gives_the_same_numbers_twice_from_the_runs_own_seed_on(make: Make, lora: Lora) -> None:
    options = {"seed": 5, "train": {"epochs": 1, "batch_size": 120}}
    first, again = (retrain(make(name=name, **options), Candidate(lora()), seeds=1) for name in ("a", "b"))
    assert first == again
    assert first.seeds == [5]
    assert first.test_std == 0.0
    config = make(name="a", **options)
    assert "val" not in read_adapter_info(config.folder / "best" / "adapter.safetensors").score


def test_a_seed_that_was_retrained_is_kept_and_the_test_split_not_read_again(
    config: RunConfig, lora: Lora, reads: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    candidate = Candidate(lora(b0=1))
    first = retrain(config, candidate, seeds=1)
    (kept,) = (config.folder / "retrained").iterdir()
    assert kept.name == f"{candidate.key}-0.safetensors"
    reads.clear()
    with caplog.at_level(logging.INFO, "petlas"):
        assert retrain(config, candidate, seeds=1) == first
    assert TEST not in reads
    assert "already: it is not read again" in caplog.text
    more = retrain(config, candidate, seeds=2)
    assert more.tests[0] == first.tests[0]
    assert reads.count(TEST) == 1
    assert [read["seed"] for read in json.loads((config.folder / TEST_READS).read_text())] == [0, 1]


def test_a_kept_seed_of_other_settings_or_a_damaged_one_is_trained_anew(
    make: Make, config: RunConfig, lora: Lora, reads: list[int]
) -> None:
    candidate = Candidate(lora(b0=1))
    first = retrain(config, candidate, seeds=1)
    other = make(train={"epochs": 1, "lr": 5e-3, "batch_size": 16, "weight_decay": 0.5})
    (config.folder / "config.yaml").unlink()  # what lies there is what a person may have copied from another run
    reads.clear()
    retrain(other, candidate, seeds=1)
    assert reads.count(TEST) == 1
    (config.folder / "config.yaml").unlink()
    (kept,) = (config.folder / "retrained").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert retrain(config, candidate, seeds=1) == first
    assert reads.count(TEST) == 2
    assert "read 2 times" not in (config.folder / "best" / "card.md").read_text()
    assert "read 3 times" in (config.folder / "best" / "card.md").read_text()


def test_a_further_reading_of_the_test_split_for_another_candidate_is_said(
    config: RunConfig, lora: Lora, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    with caplog.at_level(logging.INFO, "petlas"):
        retrain(config, Candidate(lora(b0=1)), seeds=1)
        assert "do not choose by it" not in caplog.text
        retrain(config, Candidate(lora(b0=2)), seeds=1)
    assert "read for 1 other candidates before: do not choose by it" in caplog.text


def test_settings_of_a_candidate_are_what_it_is_retrained_with(config: RunConfig, lora: Lora) -> None:
    slow, fast = (Candidate(lora(b0=1), (("lr", lr),)) for lr in (1e-6, 5e-3))
    outcomes = [retrain(config, candidate, seeds=1) for candidate in (slow, fast, Candidate(lora(b0=1)))]
    assert [outcome.settings for outcome in outcomes] == [{"lr": 1e-6}, {"lr": 5e-3}, {}]
    assert outcomes[0].tests < outcomes[1].tests == outcomes[2].tests
    assert len(list((config.folder / "retrained").iterdir())) == 3


def test_an_option_of_a_method_that_is_a_setting_is_in_the_adapter_file(config: RunConfig, lora: Lora) -> None:
    candidate = Candidate(lora(b0=2), (("scale.lora", 3.0),))
    outcome = retrain(config, candidate, seeds=1)
    best = config.folder / "best"
    assert outcome.settings == {"scale.lora": 3.0}
    assert Candidate.load(best / "design.yaml") == candidate
    (placement,) = read_adapter_info(best / "adapter.safetensors").design.placements
    assert dict(placement.options) == {"alpha": 6}


class Scripted:
    """Stands in for `TrainingRun`."""

    loss, accuracy = 1.0, 0.5

    def __init__(
        self,
        bench: Workbench,
        candidate: Candidate,
        fidelity: Fidelity,
        train_view: str,
        val_view: None,
        files: Files,
    ) -> None:
        assert (train_view, val_view, files) == ("trainval", None, bench.files)
        assert fidelity == Fidelity(bench.config.train.epochs, fidelity.seed)
        self.model, self.finished, self.seed = None, False, fidelity.seed

    def epoch(self) -> EpochResult:
        self.finished = True
        return EpochResult(1, self.loss, math.nan, 0.1)

    def test(self, keep: Callable[[torch.Tensor], None]) -> float:
        keep(torch.zeros(TEST, 10))
        return self.accuracy + self.seed / 100


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    class Mine(Scripted):
        pass

    monkeypatch.setattr(retrain_module, "TrainingRun", Mine)
    monkeypatch.setattr(retrain_module, "save_adapter", lambda model, path, **options: path.write_bytes(b""))
    return Mine


@pytest.mark.parametrize(("loss", "accuracy"), [(math.nan, 0.5), (math.inf, 0.5), (1.0, math.nan)])
def test_a_training_that_diverges_is_an_error_and_leaves_no_adapter(
    config: RunConfig, lora: Lora, scripted: type[Scripted], loss: float, accuracy: float
) -> None:
    scripted.loss, scripted.accuracy = loss, accuracy
    with pytest.raises(RuntimeError, match=r"diverged.*lower train\.lr"):
        retrain(config, Candidate(lora(b0=1)), seeds=1)
    assert not (config.folder / "retrained").exists()
    assert not (config.folder / "best" / "adapter.safetensors").exists()


def test_the_baselines_that_came_to_their_end_are_retrained_in_the_same_way(
    config: RunConfig, lora: Lora, scripted: type[Scripted]
) -> None:
    everywhere = lora(b0=1, b1=1, b2=1, b3=1, b4=1, b5=1)
    add(config, Design((), config.backbone.name), 0.3, "baseline")
    add(config, everywhere, 0.6, "baseline")
    add(config, lora(b0=2), None, "baseline")  # failed
    add(config, lora(b5=2), 0.9)  # no baseline
    found, outcomes = retrain_with_baselines(config, Candidate(lora(b0=1)), seeds=3)
    assert [(o.name, o.val, o.params) for o in outcomes] == [("linear", 0.3, 0), ("lora", 0.6, 6 * 512)]
    assert all(o.tests == pytest.approx([0.5, 0.51, 0.52]) for o in outcomes)
    assert outcomes[0].test_std == pytest.approx(float(np.std([0.5, 0.51, 0.52], ddof=1)))
    written = json.loads((config.folder / "baselines.json").read_text())
    assert [o["name"] for o in written] == ["linear", "lora"]
    assert found.name == "found"
    assert Candidate.load(config.folder / "best" / "design.yaml") == Candidate(lora(b0=1))


def test_a_baseline_that_is_what_was_found_is_trained_and_tested_once(
    config: RunConfig, lora: Lora, scripted: type[Scripted]
) -> None:
    everywhere = lora(b0=1, b1=1, b2=1, b3=1, b4=1, b5=1)
    add(config, everywhere, 0.6, "baseline")
    found, (other,) = retrain_with_baselines(config, Candidate(everywhere), seeds=2)
    assert (found.tests, found.design) == (other.tests, other.design)
    assert [read["seed"] for read in json.loads((config.folder / TEST_READS).read_text())] == [0, 1]


def test_the_best_trial_is_chosen_by_the_selection_split(config: RunConfig, lora: Lora) -> None:
    add(config, lora(b0=1), 0.5)
    add(config, lora(b0=2), 0.7)
    add(config, lora(b5=1), 0.9, epochs=0)  # stopped early
    assert choose(config) == (Candidate(lora(b0=2)), 0.7)


def test_a_trial_is_chosen_by_its_number_even_if_it_was_stopped_early(config: RunConfig, lora: Lora) -> None:
    add(config, lora(b0=1), 0.5)
    number = add(config, lora(b5=1), 0.9, epochs=0)
    assert choose(config, trial=number) == (Candidate(lora(b5=1)), 0.9)
    with pytest.raises(RunError, match="--trial must be a trial of"):
        choose(config, trial=99)


def test_of_a_search_on_folds_a_candidate_goes_with_what_is_believed_of_it(config: RunConfig, lora: Lora) -> None:
    record = StudyRecord.create(config.folder)
    for rank, value in ((1, 0.95), (2, 0.6)):
        entry = Entry(Candidate(lora(b0=rank)), Fidelity(config.train.epochs, 0, 0, 5), "halving", 10)
        record.finish(record.begin(entry, {}, {}, {}), Ending(1, value, 1.0, more={"images": 40}))
    believed = record.beliefs().of(lora(b0=1).key)
    assert choose(config) == choose(config, trial=0) == (Candidate(lora(b0=1)), believed[0])
    assert believed[0] < 0.95
    outcome = retrain(config, *choose(config)[:1], seeds=1, val=believed[0])
    assert (outcome.val, outcome.val_error, outcome.believed) == (*believed, True)
    assert "accuracy believed after the search" in (config.folder / "best" / "card.md").read_text()


def test_a_study_without_a_finished_trial_has_nothing_to_retrain(config: RunConfig, lora: Lora) -> None:
    add(config, lora(b0=1), None)
    with pytest.raises(RunError, match="needs a finished trial"):
        choose(config)


def test_a_design_file_is_chosen_if_it_is_for_the_runs_backbone(config: RunConfig, lora: Lora, tmp_path: Path) -> None:
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(lora(b0=1).to_dict()))
    assert choose(config, file=path) == (Candidate(lora(b0=1)), None)
    path.write_text("placements: [{method: lora, block: 0, size: 1}]")
    assert choose(config, file=path)[0].design.placements == lora(b0=1).placements
    path.write_text("{backbone: vit_base_patch16_224, placements: []}")
    with pytest.raises(RunError, match="vit_base_patch16_224"):
        choose(config, file=path)
    with pytest.raises(SpaceError, match="cannot read"):
        choose(config, file=tmp_path / "none.yaml")


def test_a_design_that_does_not_fit_is_refused_before_training(config: RunConfig, lora: Lora) -> None:
    with pytest.raises(DesignError, match=r"0\.\.5"):
        retrain(config, Candidate(lora(b6=1)), seeds=1)


def test_a_design_file_may_have_settings(config: RunConfig, lora: Lora, tmp_path: Path) -> None:
    candidate = Candidate(lora(b0=1), (("lr", 3e-3),))
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(candidate.to_dict()))
    assert choose(config, file=path) == (candidate, None)
    path.write_text("{settings: {learning_rate: 1}, placements: []}")
    with pytest.raises(UserError, match="learning_rate"):
        retrain(config, choose(config, file=path)[0], seeds=1)


def test_a_long_retraining_tells_where_it_stands(
    make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    monkeypatch.setattr(retrain_module, "_SAID_EVERY", 0.0)
    with caplog.at_level(logging.INFO, "petlas"):
        retrain(make(train={"epochs": 2, "batch_size": 120}), Candidate(lora()), seeds=1)
    assert "seed 0  epoch 1/2" in caplog.text
    assert "retrained found" in caplog.text
