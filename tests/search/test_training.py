import copy
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from petlas.datasets import open_task
from petlas.petl.backbone import InputConfig
from petlas.petl.design import Design
from petlas.petl.tuning import tuned_state_dict
from petlas.search import training
from petlas.search.config import RunConfig, TrainConfig
from petlas.search.training import (
    EpochResult,
    ImageBatches,
    TrainingRun,
    autocast_dtype,
    evaluate,
    fresh_backbone,
    load_split,
    lr_factor,
    make_optimiser,
    open_run_task,
)

Make = Callable[..., RunConfig]
Lora = Callable[..., Design]
CPU = torch.device("cpu")
INPUTS = InputConfig(2, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2), "bicubic")


def numbers(run: TrainingRun) -> list[tuple[int, float, float]]:
    results = []
    while not run.finished:
        result = run.epoch()
        results.append((result.epoch, result.loss, result.val))
    return results


def test_batches_are_normalised_as_the_backbone_was_pretrained() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 2, 2), dtype=np.uint8)
    data = ImageBatches(images, np.arange(5), INPUTS, CPU)
    pixels, labels = data.batch(torch.tensor([3, 0]))
    expected = np.empty((2, 3, 2, 2))
    for row, index in enumerate([3, 0]):
        for channel in range(3):
            value = images[index, channel].astype(np.float64) / 255
            expected[row, channel] = (value - INPUTS.mean[channel]) / INPUTS.std[channel]
    np.testing.assert_allclose(pixels.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [3, 0]
    assert len(data) == 5


def test_the_decoded_images_are_shared_not_copied_and_never_written() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    images.setflags(write=False)
    data = ImageBatches(images, np.zeros(2, int), INPUTS, CPU)
    assert data._images.data_ptr() == images.ctypes.data
    before = images.copy()
    data.batch(slice(0, 2))[0].zero_()
    np.testing.assert_array_equal(images, before)


class FirstPixel(nn.Module):
    """Its class is the sign of the first pixel; in training mode always 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, 0, 0, 0] * (not self.training)
        return torch.stack([-first, first], dim=1)


@pytest.mark.parametrize("count", [1, 7, 256, 300, 512])
def test_evaluate_gives_the_accuracy_of_a_loop_over_single_images(count: int) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 3, 2, 2), dtype=np.uint8)
    labels = rng.integers(0, 2, count)
    model = FirstPixel().train()
    correct = sum((image[0, 0, 0] / 255 > INPUTS.mean[0]) == label for image, label in zip(images, labels, strict=True))
    assert evaluate(model, ImageBatches(images, labels, INPUTS, CPU)) == correct / count


def test_outputs_that_are_not_finite_have_no_accuracy() -> None:
    class Blown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[math.nan, 0.0]]).expand(len(x), 2)

    data = ImageBatches(np.zeros((3, 3, 2, 2), np.uint8), np.zeros(3, int), INPUTS, CPU)
    assert math.isnan(evaluate(Blown(), data))


def test_loss_and_accuracy_of_an_epoch_are_those_of_a_naive_loop_in_float64(make: Make, lora: Lora) -> None:
    """With a vanishing learning rate an epoch's loss is the loss of the model that it started from."""
    config = make(train={"epochs": 1, "lr": 1e-30, "weight_decay": 0, "batch_size": 300})
    run = TrainingRun(config, lora(b0=1), seed=3)
    model = copy.deepcopy(run.model).double().eval()
    result = run.epoch()
    task = open_task("digits")
    for split, measured in (("train", result.loss), ("val", result.val)):
        images = training.open_store(task.splits[split], run.inputs.size, interpolation=run.inputs.interpolation)
        shape = (1, 3, 1, 1)
        mean, std = (np.reshape(value, shape) for value in (run.inputs.mean, run.inputs.std))
        labels = torch.tensor(task.splits[split].labels)
        with torch.no_grad():
            logits = model(torch.tensor((np.asarray(images, np.float64) / 255 - mean) / std))
        shares = logits - logits.exp().sum(1, keepdim=True).log()
        if split == "train":
            loss = -shares[range(len(labels)), labels].mean().item()
            assert measured == pytest.approx(loss, rel=1e-4)
        else:
            assert measured == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1.5 / len(labels))


def test_training_learns(make: Make, lora: Lora) -> None:
    config = make(train={"epochs": 3, "lr": 5e-3, "batch_size": 64})
    results = numbers(TrainingRun(config, lora(b0=2), seed=0))
    assert [epoch for epoch, _, _ in results] == [1, 2, 3]
    assert results[-1][1] < results[0][1] - 0.1
    assert results[-1][2] > 0.3


def test_only_the_design_and_the_head_change(make: Make, lora: Lora) -> None:
    config = make(train={"epochs": 1, "lr": 1e-2, "weight_decay": 0.1})
    run = TrainingRun(config, lora(b0=2), seed=0)
    tuned = {name: value.clone() for name, value in tuned_state_dict(run.model).items()}
    run.epoch()
    pristine = fresh_backbone(config).state_dict()
    after = run.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in pristine.items() if not name.startswith("head."))
    changed = [name for name, value in tuned_state_dict(run.model).items() if not torch.equal(value, tuned[name])]
    assert len(changed) == len(tuned) > 2


def test_the_same_seed_gives_exactly_the_same_numbers_and_another_seed_others(make: Make, lora: Lora) -> None:
    config = make(train={"batch_size": 400, "drop_path": 0.2})
    first = numbers(TrainingRun(config, lora(b0=1), seed=5))
    torch.rand(7)  # whatever was drawn before must not matter
    assert numbers(TrainingRun(config, lora(b0=1), seed=5)) == first
    assert numbers(TrainingRun(config, lora(b0=1), seed=6)) != first


def test_the_first_run_of_a_process_gives_the_numbers_of_a_later_one(make: Make, lora: Lora) -> None:
    """Reading the backbone for the first time draws random numbers, which must not reach the head or the design."""
    config = make()
    training._pristine.cache_clear()
    first = tuned_state_dict(TrainingRun(config, lora(b0=1), seed=5).model)
    later = tuned_state_dict(TrainingRun(config, lora(b0=1), seed=5).model)
    assert first.keys() == later.keys()
    assert all(torch.equal(first[name], later[name]) for name in first)


def test_trials_do_not_share_weights(make: Make, lora: Lora) -> None:
    config = make()
    a, b = (TrainingRun(config, lora(b0=1), seed=5).model for _ in range(2))
    with torch.no_grad():
        for parameter in a.parameters():
            parameter.zero_()
    assert b.get_parameter("blocks.0.attn.qkv.weight").abs().sum() > 0
    assert fresh_backbone(config).get_parameter("blocks.0.attn.qkv.weight").abs().sum() > 0


def test_an_absurd_learning_rate_ends_in_nan(make: Make, lora: Lora) -> None:
    config = make(train={"lr": 1e30, "batch_size": 200, "clip_grad": None})
    assert math.isnan(numbers(TrainingRun(config, lora(b0=1), seed=0))[-1][2])


def test_training_without_a_selection_split_measures_nothing(make: Make, lora: Lora) -> None:
    config = make(train={"epochs": 1})
    run = TrainingRun(config, lora(), seed=0, train_split="trainval", val_split=None)
    assert len(run.data) == 1000
    result = run.epoch()
    assert math.isfinite(result.loss)
    assert math.isnan(result.val)


def test_every_image_is_seen_once_in_an_epoch_and_the_order_changes(
    make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(train={"batch_size": 300})
    run = TrainingRun(config, lora(), seed=0)
    picks: list[torch.Tensor] = []
    batch = run.data.batch
    monkeypatch.setattr(run.data, "batch", lambda pick: picks.append(pick) or batch(pick))
    monkeypatch.setattr(run, "accumulate", lambda images, labels: torch.zeros(()))
    run.train_epoch()
    run.train_epoch()
    assert [len(pick) for pick in picks] == [300, 300, 200] * 2
    first, second = torch.cat(picks[:3]), torch.cat(picks[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(800))
    assert not torch.equal(first, second)


def schedule(train: TrainConfig, steps: int) -> list[float]:
    return [train.lr * lr_factor(step, train, steps) for step in range(train.epochs * steps + 3)]


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_one_percent() -> None:
    rates = schedule(TrainConfig(epochs=10, warmup_epochs=2, lr=2.0), steps=5)
    np.testing.assert_allclose(rates[:10], [2.0 * (i + 1) / 11 for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[30] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    np.testing.assert_allclose(rates[10:50], [2 * (0.01 + 0.495 * (1 + math.cos(math.pi * i / 40))) for i in range(40)])
    np.testing.assert_allclose(rates[50:], 0.02)


def test_without_warm_up_the_learning_rate_begins_at_its_peak() -> None:
    rates = schedule(TrainConfig(epochs=2, warmup_epochs=0, lr=1.0), steps=4)
    assert rates[0] == 1.0
    assert all(a > b for a, b in pairwise(rates[:8]))


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    optimiser = make_optimiser(list(model.parameters()), TrainConfig(weight_decay=0.3, lr=0.1))
    decay = {p: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert {name: decay[p] for name, p in model.named_parameters()} == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }
    assert {group["lr"] for group in optimiser.param_groups} == {0.1}


def test_the_optimiser_holds_exactly_what_is_trainable(make: Make, lora: Lora) -> None:
    run = TrainingRun(make(), lora(b0=1), seed=0)
    held = {id(p) for group in run._optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters() if p.requires_grad}


def test_gradients_are_clipped_and_labels_smoothed_only_where_asked(
    make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    smoothings: list[float] = []
    cross_entropy = training.F.cross_entropy
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm))

    def spy(*args: Any, label_smoothing: float) -> torch.Tensor:
        smoothings.append(label_smoothing)
        return cross_entropy(*args, label_smoothing=label_smoothing)

    monkeypatch.setattr(training.F, "cross_entropy", spy)
    TrainingRun(make(train={"batch_size": 800, "clip_grad": None}), lora(), 0).train_epoch()
    TrainingRun(make(train={"batch_size": 800, "clip_grad": 0.5, "label_smoothing": 0.1}), lora(), 0).train_epoch()
    assert norms == [0.5]
    assert smoothings == [0.0, 0.1]


@pytest.mark.parametrize(
    ("units", "found"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_computes_in_full_precision_unless_it_multiplies_bf16_or_bf16_is_asked_for(
    units: dict[str, bool], found: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert autocast_dtype(TrainConfig(), CPU) is found
    assert autocast_dtype(TrainConfig(amp="off"), CPU) is None
    assert autocast_dtype(TrainConfig(amp="bf16"), CPU) is torch.bfloat16


def test_bf16_changes_logits_by_rounding_only_and_is_over_after_the_forward_pass(make: Make, lora: Lora) -> None:
    """Against float32; and attention, whose implementation is another one then, is what it was afterwards."""
    fused = torch.backends.cuda.flash_sdp_enabled()
    logits = []
    for amp in ("off", "bf16"):
        run = TrainingRun(make(train={"amp": amp}), lora(), 0)
        images, _ = run.data.batch(torch.arange(8))
        logits.append(run.forward(images))
    assert logits[0].dtype == logits[1].dtype == torch.float32
    torch.testing.assert_close(logits[1], logits[0], rtol=0.05, atol=0.05)
    assert not torch.equal(logits[0], logits[1])
    assert torch.backends.cuda.flash_sdp_enabled() == fused and not torch.is_autocast_enabled("cpu")


def test_drop_path_is_in_the_backbone_that_is_trained(make: Make) -> None:
    model = fresh_backbone(make(train={"drop_path": 0.3}))
    assert model.get_submodule("blocks.5.drop_path1").drop_prob == pytest.approx(0.3)
    assert isinstance(fresh_backbone(make()).get_submodule("blocks.5.drop_path1"), nn.Identity)


def test_the_seed_of_a_run_decides_its_task_and_splits_have_the_backbones_size(make: Make) -> None:
    config = make()
    task = open_run_task(config)
    data = load_split(config, task, "val", INPUTS, CPU)
    assert data.batch(slice(0, 3))[0].shape == (3, 3, 2, 2)
    assert len(data) == 200


def test_test_measures_the_test_split_in_full_precision(
    make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrainingRun(make(), lora(), seed=0)
    sizes: list[int] = []
    monkeypatch.setattr(training, "evaluate", lambda model, data: sizes.append(len(data)) or 0.25)
    assert run.test() == 0.25
    assert sizes == [797]


def test_results_hold_the_seconds_since_the_start(make: Make, lora: Lora, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun(make(), lora(), seed=0)
    monkeypatch.setattr(run, "accumulate", lambda images, labels: torch.zeros(()))
    first, second = run.epoch(), run.epoch()
    assert isinstance(first, EpochResult)
    assert 0 < first.seconds < second.seconds


def test_the_module_needs_no_ray() -> None:
    code = "import sys; import petlas.search.training, petlas.search.retrain; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_training_that_is_cut_off_goes_on_at_its_last_epoch_and_ends_as_if_it_had_not_been(
    make: Make, lora: Lora, tmp_path: Path
) -> None:
    config = make(train={"epochs": 3, "batch_size": 400, "warmup_epochs": 1})
    whole = TrainingRun(config, lora(b0=2), seed=1)
    expected = [whole.epoch() for _ in range(3)]
    cut = TrainingRun(config, lora(b0=2), seed=1, checkpoints=tmp_path)
    first = cut.epoch()
    again = TrainingRun(config, lora(b0=2), seed=1, checkpoints=tmp_path)
    assert again.progress.epochs == 1
    rest = [again.epoch(), again.epoch()]
    assert [(r.epoch, r.loss, r.val) for r in (first, *rest)] == [(r.epoch, r.loss, r.val) for r in expected]
    state = tuned_state_dict(whole.model)
    assert all(torch.equal(value, state[key]) for key, value in tuned_state_dict(again.model).items())
    ended = TrainingRun(config, lora(b0=2), seed=1, checkpoints=tmp_path)
    assert ended.finished
    assert (ended.epoch().epoch, ended.epoch().val) == (3, expected[-1].val)  # cut off before its end was written down


def test_another_seed_split_or_design_does_not_take_up_a_training(make: Make, lora: Lora, tmp_path: Path) -> None:
    config = make(train={"epochs": 2, "batch_size": 800})
    TrainingRun(config, lora(b0=2), seed=1, checkpoints=tmp_path).epoch()
    others = [
        TrainingRun(config, lora(b0=2), seed=2, checkpoints=tmp_path),
        TrainingRun(config, lora(b0=1), seed=1, checkpoints=tmp_path),
        TrainingRun(config, lora(b0=2), 1, "trainval", None, checkpoints=tmp_path),
    ]
    assert [run.progress.epochs for run in others] == [0, 0, 0]
