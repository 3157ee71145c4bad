import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from study_cases import few_images
from torch import nn

from petlas.datasets import open_store
from petlas.errors import UserError
from petlas.petl import Design, Placement, tuned_state_dict
from petlas.search.config import TrainConfig
from petlas.search.objectives.single_label import SingleLabel
from petlas.search.run_files import Folder
from petlas.search.run_folder import CHECKPOINTS
from petlas.search.stages import training_run as run_module
from petlas.search.stages.training_run import TrainingRun, settings_of
from petlas.search.training import EpochResult, Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]
Lora = Callable[..., Design]


@pytest.fixture
def few(bench: Bench) -> Bench:
    """The run on 96 images to learn from and 32 to measure on: for what holds of any number."""
    return lambda **groups: few_images(bench(**groups), 96, 32)


def start(
    bench: Workbench,
    design: Design,
    seed: int = 0,
    settings: dict[str, float] | None = None,
    fold: tuple[int, int] | None = None,
    **more: object,
) -> TrainingRun:
    fidelity = Fidelity(bench.config.train.epochs, seed, *(fold or ()))
    return TrainingRun(bench, Candidate(design, tuple((settings or {}).items())), fidelity, **more)  # type: ignore[arg-type]


def numbers(run: TrainingRun) -> list[tuple[int, float, float]]:
    results = []
    while not run.finished:
        result = run.epoch()
        results.append((result.epoch, result.loss, result.val))
    return results


def test_loss_and_accuracy_of_an_epoch_are_those_of_a_naive_loop_in_float64(bench: Bench, lora: Lora) -> None:
    """With a vanishing learning rate an epoch's loss is the loss of the model that it started from."""
    work = few_images(bench(train={"epochs": 1, "lr": 1e-30, "weight_decay": 0, "batch_size": 60}), 150, 200)
    run = start(work, lora(b0=1), seed=3)
    model = copy.deepcopy(run.model).double().eval()
    result = run.epoch()
    for name, measured in (("train", result.loss), ("val", result.val)):
        view = work.task.views[name]
        images = open_store(view.source, work.inputs.size, interpolation=work.inputs.interpolation)[view.indices]
        shape = (1, 3, 1, 1)
        mean, std = (np.reshape(value, shape) for value in (work.inputs.mean, work.inputs.std))
        labels = torch.tensor(view.targets)
        with torch.no_grad():
            logits = model(torch.tensor((np.asarray(images, np.float64) / 255 - mean) / std))
        shares = logits - logits.exp().sum(1, keepdim=True).log()
        if name == "train":
            loss = -shares[range(len(labels)), labels].mean().item()
            assert measured == pytest.approx(loss, rel=1e-4)
        else:
            assert measured == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1.5 / len(labels))
            assert run.images == len(labels)


def test_training_learns(bench: Bench, lora: Lora) -> None:
    results = numbers(start(bench(train={"epochs": 3, "lr": 5e-3, "batch_size": 64}), lora(b0=2)))
    assert [epoch for epoch, _, _ in results] == [1, 2, 3]
    assert results[-1][1] < results[0][1] - 0.1
    assert results[-1][2] > 0.3


def test_several_labels_are_learned_and_measured_by_their_own_loss_and_metric(bench: Bench, lora: Lora) -> None:
    """Which of these a digit is: even, at least five, a prime."""
    work = bench(train={"epochs": 3, "lr": 5e-3, "batch_size": 64})
    digits = np.arange(10)
    named = np.stack([digits % 2 == 0, digits >= 5, np.isin(digits, (2, 3, 5, 7))], axis=1)
    views = {name: replace(view, targets=named[view.targets]) for name, view in work.task.views.items()}
    work.task = replace(work.task, kind="multi_label", classes=("even", "large", "prime"), views=views)
    assert work.objective.metric.name == "mAP"
    run = start(work, lora(b0=2))
    results = numbers(run)
    assert results[-1][1] < results[0][1] < 0.75
    assert 0.6 < results[0][2] < results[-1][2] < 1
    assert 0.6 < run.test() < 1


def test_only_the_design_and_the_head_change(few: Bench, lora: Lora) -> None:
    work = few(train={"epochs": 1, "lr": 1e-2, "weight_decay": 0.1})
    run = start(work, lora(b0=2))
    tuned = {name: value.clone() for name, value in tuned_state_dict(run.model).items()}
    run.epoch()
    pristine = work.backbone().state_dict()
    after = run.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in pristine.items() if not name.startswith("head."))
    changed = [name for name, value in tuned_state_dict(run.model).items() if not torch.equal(value, tuned[name])]
    assert len(changed) == len(tuned) > 2


def test_the_same_seed_gives_exactly_the_same_numbers_and_another_seed_others(few: Bench, lora: Lora) -> None:
    work = few(train={"batch_size": 48, "drop_path": 0.2})
    first = numbers(start(work, lora(b0=1), seed=5))
    torch.rand(7)  # whatever was drawn before must not matter
    assert numbers(start(work, lora(b0=1), seed=5)) == first
    assert numbers(start(work, lora(b0=1), seed=6)) != first


def test_the_first_run_of_a_process_gives_the_numbers_of_a_later_one(bench: Bench, lora: Lora) -> None:
    """Reading the backbone for the first time draws random numbers, which must not reach the head or the design."""
    first = tuned_state_dict(start(bench(), lora(b0=1), seed=5).model)
    later = tuned_state_dict(start(bench(), lora(b0=1), seed=5).model)
    assert first.keys() == later.keys()
    assert all(torch.equal(first[name], later[name]) for name in first)


def test_trials_do_not_share_weights(bench: Bench, lora: Lora) -> None:
    work = bench()
    a, b = (start(work, lora(b0=1), seed=5).model for _ in range(2))
    with torch.no_grad():
        for parameter in a.parameters():
            parameter.zero_()
    assert b.get_parameter("blocks.0.attn.qkv.weight").abs().sum() > 0
    assert work.backbone().get_parameter("blocks.0.attn.qkv.weight").abs().sum() > 0


def test_an_absurd_learning_rate_ends_in_nan(few: Bench, lora: Lora) -> None:
    work = few(train={"lr": 1e30, "batch_size": 24, "clip_grad": None})
    assert math.isnan(numbers(start(work, lora(b0=1)))[-1][2])


def test_a_loss_that_is_not_finite_ends_the_run_with_nan(
    bench: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(bench(train={"epochs": 5}), lora())
    monkeypatch.setattr(run, "accumulate", lambda images, targets: torch.tensor(math.nan))
    result = run.epoch()
    assert math.isnan(result.loss) and math.isnan(result.val)
    assert run.finished


def test_training_without_a_selection_view_measures_nothing(few: Bench, lora: Lora) -> None:
    run = start(few(train={"epochs": 1}), lora(), train_view="trainval", val_view=None)
    assert (len(run.data), run.images) == (128, 0)
    result = run.epoch()
    assert math.isfinite(result.loss)
    assert math.isnan(result.val)


def test_on_a_fold_the_rest_is_learned_and_the_fold_measured(few: Bench, lora: Lora) -> None:
    work = few(train={"epochs": 1, "batch_size": 32})
    held: list[np.ndarray] = []
    for fold in range(3):
        run = start(work, lora(), fold=(fold, 3))
        learned, measured = work.views(run.fidelity)
        assert (len(run.data), run.images) == (len(learned), len(measured))
        assert not set(learned.indices) & set(measured.indices)
        held.append(measured.indices)
        assert math.isfinite(run.epoch().val)
    assert sorted(np.concatenate(held)) == sorted(work.task.views["trainval"].indices)


def test_labels_are_smoothed_only_where_asked(few: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch) -> None:
    smoothings: list[float] = []
    loss = SingleLabel.loss

    def spy(self: SingleLabel, logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        smoothings.append(smoothing)
        return loss(self, logits, targets, smoothing)

    monkeypatch.setattr(SingleLabel, "loss", spy)
    start(few(train={"batch_size": 96}), lora()).train_epoch()
    start(few(train={"batch_size": 96, "label_smoothing": 0.1}), lora()).train_epoch()
    assert smoothings == [0.0, 0.1]


def test_a_candidates_settings_come_before_the_runs(few: Bench, lora: Lora) -> None:
    work = few(train={"lr": 1e-3, "batch_size": 48})
    own = {"lr": 7e-3, "label_smoothing": 0.2, "weight_decay": 0.5}
    theirs = numbers(start(few(train={"batch_size": 48} | own), lora(b0=1)))
    assert numbers(start(work, lora(b0=1), settings=own)) == theirs
    assert numbers(start(work, lora(b0=1))) != theirs
    assert work.config.train.lr == 1e-3


def test_an_option_of_a_method_that_is_a_setting_is_that_of_the_design_that_is_trained(few: Bench, lora: Lora) -> None:
    work = few(train={"batch_size": 48})
    written = Design.of(
        Placement("lora", p.block, p.size, {"alpha": 4.0 * (p.size or 0)}) for p in lora(b0=1).placements
    )
    theirs = numbers(start(work, written))
    assert numbers(start(work, lora(b0=1), settings={"scale.lora": 4.0})) == theirs
    assert numbers(start(work, lora(b0=1), settings={"scale.lora": 1.0})) == numbers(start(work, lora(b0=1))) != theirs
    with pytest.raises(UserError, match=r"scale\.METHOD.*got scale\.lorra"):
        settings_of(TrainConfig(), Candidate(lora(), (("scale.lorra", 2.0),)), 3)


def test_settings_that_training_does_not_know_are_refused(lora: Lora) -> None:
    with pytest.raises(UserError, match="lr, weight_decay, label_smoothing, hflip, shift, got scale"):
        settings_of(TrainConfig(), Candidate(lora(), (("scale", 1.0), ("lr", 1e-3))), 3)


def test_the_epochs_are_those_of_the_fidelity(few: Bench, lora: Lora) -> None:
    work = few(train={"epochs": 9, "batch_size": 96})
    run = TrainingRun(work, Candidate(lora()), Fidelity(1, 0))
    run.epoch()
    assert run.finished


@pytest.mark.parametrize("method", ["hst", "lora"])
def test_a_last_batch_of_one_image_is_trained_as_it_is(few: Bench, method: str) -> None:
    placement = Placement("hst", None, None) if method == "hst" else Placement("lora", 0, 1)
    run = start(few(train={"epochs": 1, "batch_size": 95}), Design.of([placement], "vit_mini_patch16_64"))
    assert math.isfinite(run.epoch().loss)


def test_methods_that_fit_themselves_to_the_task_see_shuffled_images_of_all_classes(
    bench: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the images are sorted by class, as those of a folder are."""
    work = bench(train={"batch_size": 20})
    views = dict(work.task.views)
    views["train"] = views["train"].subset(np.argsort(views["train"].targets, kind="stable"))
    work.task = replace(work.task, views=views)
    seen: list[list[int]] = []

    def prepare(model: nn.Module, batches: object, loss: object) -> None:
        assert loss == work.objective.loss
        seen.append([label for _, labels in batches for label in labels.tolist()])  # type: ignore[attr-defined]

    monkeypatch.setattr(run_module, "prepare", prepare)
    start(work, lora(), seed=1)
    start(work, lora(), seed=1)
    start(work, lora(), seed=2)
    assert len(seen[0]) == 800  # all of them, but the first batches are enough to see every class
    assert all(20 <= seen[0][:320].count(label) <= 45 for label in range(10))
    assert len(set(seen[0][:20])) > 5
    assert seen[0] == seen[1] != seen[2]


def test_values_that_are_inherited_are_taken_as_they_are(
    bench: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench(train={"epochs": 1})
    initial = {key: value + 0.5 for key, value in tuned_state_dict(start(work, lora(b0=1)).model).items()}
    monkeypatch.setattr(run_module, "prepare", None)  # what was chosen for the inherited values stays
    state = tuned_state_dict(start(work, lora(b0=1), seed=3, initial=initial).model)
    assert all(torch.equal(value, initial[key]) for key, value in state.items())


def test_test_measures_the_test_view_in_full_precision(
    bench: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(bench(train={"amp": "bf16"}), lora())
    found: list[object] = []
    before = torch.backends.cudnn.allow_tf32

    def spy(
        model: nn.Module, data: object, objective: object, autocast: torch.dtype | None = None, keep: object = None
    ) -> float:
        found.extend([len(data), autocast, torch.backends.cudnn.allow_tf32])  # type: ignore[arg-type]
        return 0.25

    monkeypatch.setattr(run_module, "evaluate", spy)
    assert run.test() == 0.25
    assert found == [797, None, False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_results_hold_the_seconds_since_the_start(few: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(few(), lora())
    monkeypatch.setattr(run, "accumulate", lambda images, targets: torch.zeros(()))
    first, second = run.epoch(), run.epoch()
    assert isinstance(first, EpochResult)
    assert 0 < first.seconds < second.seconds


def test_a_training_that_is_cut_off_goes_on_at_its_last_epoch_and_ends_as_if_it_had_not_been(
    few: Bench, lora: Lora, tmp_path: Path
) -> None:
    work = few(train={"epochs": 3, "batch_size": 48, "warmup_epochs": 1})
    whole = start(work, lora(b0=2), seed=1)
    expected = [whole.epoch() for _ in range(3)]
    first = start(work, lora(b0=2), seed=1, files=Folder(tmp_path)).epoch()
    again = start(work, lora(b0=2), seed=1, files=Folder(tmp_path))
    assert again.progress.epochs == 1
    taken_up = again.epoch()  # measured once more: it may have been cut off before that
    assert (taken_up.epoch, taken_up.loss, taken_up.val) == (first.epoch, first.loss, first.val)
    rest = [again.epoch(), again.epoch()]
    assert [(r.epoch, r.loss, r.val) for r in (first, *rest)] == [(r.epoch, r.loss, r.val) for r in expected]
    state = tuned_state_dict(whole.model)
    assert all(torch.equal(value, state[key]) for key, value in tuned_state_dict(again.model).items())
    ended = start(work, lora(b0=2), seed=1, files=Folder(tmp_path))
    assert ended.finished
    assert (ended.epoch().epoch, ended.epoch().val) == (3, expected[-1].val)  # cut off before its end was written down


def test_another_seed_view_fold_design_or_setting_does_not_take_up_a_training(
    few: Bench, lora: Lora, tmp_path: Path
) -> None:
    work = few(train={"epochs": 2, "batch_size": 96})
    start(work, lora(b0=2), seed=1, files=Folder(tmp_path)).epoch()
    others = [
        start(work, lora(b0=2), seed=2, files=Folder(tmp_path)),
        start(work, lora(b0=1), seed=1, files=Folder(tmp_path)),
        start(work, lora(b0=2), 1, train_view="trainval", val_view=None, files=Folder(tmp_path)),
        start(work, lora(b0=2), 1, fold=(0, 5), files=Folder(tmp_path)),
        start(work, lora(b0=2), 1, settings={"lr": 5e-2}, files=Folder(tmp_path)),
    ]
    assert [run.progress.epochs for run in others] == [0] * 5


CHANGES: dict[str, dict[str, object]] = {
    "learning rate": {"train": {"lr": 5e-2}},
    "epochs": {"train": {"epochs": 3}},
    "batches": {"train": {"batch_size": 48}},
    "drop path": {"train": {"drop_path": 0.1}},
    "precision": {"train": {"amp": "bf16"}},
    "input size": {"backbone": {"name": "vit_mini_patch16_64", "img_size": 48}},
    "normalisation": {"backbone": {"name": "vit_mini_patch16_64", "img_size": 32, "mean": [0.4, 0.5, 0.5]}},
}


def renamed(folder: Path) -> Path:
    """The one file in a folder under the name of whatever looks for it."""
    (file,) = folder.iterdir()
    return file


@pytest.mark.parametrize("change", CHANGES)
def test_a_training_of_other_numbers_is_not_taken_up(few: Bench, lora: Lora, tmp_path: Path, change: str) -> None:
    """Even where its file has the right name: a learning rate of 5e-2 once took up a training with 1e-3."""
    kept = tmp_path / "kept"
    base = {"epochs": 2, "batch_size": 96, "amp": "off"}
    start(few(train=base), lora(b0=2), files=Folder(kept)).epoch()
    assert start(few(train=base), lora(b0=2), files=Folder(kept)).progress.epochs == 1
    groups = {"train": base, **CHANGES[change]}
    groups["train"] = base | CHANGES[change].get("train", {})  # type: ignore[operator]
    other = few(**groups)
    name = f"{Candidate(lora(b0=2)).key}-train-{Fidelity(other.config.train.epochs, 0)}.safetensors"
    file = renamed(kept / CHECKPOINTS)
    file.rename(file.with_name(name))
    assert start(other, lora(b0=2), files=Folder(kept)).progress.epochs == 0


def test_a_training_of_other_data_weights_or_version_is_not_taken_up(
    few: Bench, lora: Lora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"train": {"epochs": 2, "batch_size": 96}}
    start(few(**groups), lora(b0=2), files=Folder(tmp_path)).epoch()
    assert start(few(**groups), lora(b0=2), files=Folder(tmp_path)).progress.epochs == 1
    for name in ("task", "weights"):
        work = few(**groups)
        if name == "weights":
            work.weights = "others"
        else:
            labels = work.task.views["train"].targets.copy()
            labels[[0, 1]] = labels[[1, 0]] if labels[0] != labels[1] else (labels[0] + 1) % 10
            views = dict(work.task.views) | {"train": replace(work.task.views["train"], targets=labels)}
            work.task = replace(work.task, views=views)
        assert start(work, lora(b0=2), files=Folder(tmp_path)).progress.epochs == 0
    monkeypatch.setattr("petlas.__version__", "0.0.0")
    assert start(few(**groups), lora(b0=2), files=Folder(tmp_path)).progress.epochs == 0


def test_training_from_other_inherited_values_is_not_taken_up(few: Bench, lora: Lora, tmp_path: Path) -> None:
    work = few(train={"epochs": 2, "batch_size": 96})
    initial = {key: value.clone() for key, value in tuned_state_dict(start(work, lora(b0=1)).model).items()}
    start(work, lora(b0=1), initial=initial, files=Folder(tmp_path)).epoch()
    assert start(work, lora(b0=1), initial=initial, files=Folder(tmp_path)).progress.epochs == 1
    assert start(work, lora(b0=1), files=Folder(tmp_path)).progress.epochs == 0
    initial["head.bias"] += 1
    assert start(work, lora(b0=1), initial=initial, files=Folder(tmp_path)).progress.epochs == 0


def test_the_loss_is_the_cross_entropy_of_the_logits(bench: Bench, lora: Lora) -> None:
    run = start(bench(train={"label_smoothing": 0.1}), lora(b0=1))
    images, targets = run.data.batch(torch.arange(8))
    expected = F.cross_entropy(run.forward(images), targets, label_smoothing=0.1)
    assert torch.equal(run.accumulate(images, targets), expected.detach())


def test_each_method_s_rate_is_its_factor_of_the_run_s_and_a_short_training_warms_up_as_much_shorter(
    lora: Lora,
) -> None:
    train = TrainConfig(epochs=20, warmup_epochs=10, lr_factors={"vpt": 3, "head": 2})
    candidate = Candidate(lora(), (("lr", 1e-2), ("lr.vpt", 10.0)))
    found = settings_of(train, candidate, 20)
    assert (found.lr, found.lr_factors, found.warmup_epochs) == (1e-2, {"vpt": 10.0, "head": 2}, 10)
    assert settings_of(train, candidate, 5).warmup_epochs == 2
    with pytest.raises(UserError, match=r"lr\.METHOD, lr, .*, got lr\.vtp"):
        settings_of(train, Candidate(lora(), (("lr.vtp", 2.0),)), 3)


def test_where_memory_runs_out_the_gradients_of_halves_add_up_to_the_batchs_and_the_record_says_so(
    bench: Bench, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is here: whatever is larger than a share of the batch raises what torch.cuda would."""
    work = few_images(bench(train={"epochs": 1, "batch_size": 150, "warmup_epochs": 0, "amp": "off"}), 160, 20)
    whole, short, nothing = (start(work, lora(b0=2)) for _ in range(3))
    forward = TrainingRun.forward

    def starved(run: TrainingRun, images: torch.Tensor) -> torch.Tensor:
        if (run is short and len(images) > 40) or run is nothing:
            forward(run, images[:1]).sum().backward()  # what is left of a step that was cut off
            raise torch.OutOfMemoryError("2 GB")
        return forward(run, images)

    monkeypatch.setattr(TrainingRun, "forward", starved)
    losses = [run.accumulate(*run.data.batch(slice(0, 150))).item() for run in (whole, short)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert (whole.parts, short.parts) == (1, 4)
    for ours, theirs in zip(whole.parameters, short.parameters, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    with pytest.raises(torch.OutOfMemoryError):
        nothing.accumulate(*nothing.data.batch(slice(0, 3)))
    assert (whole.epoch().parts, short.epoch().parts) == (1, 4)
