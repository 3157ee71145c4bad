from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from petlas.petl import Design, InputConfig, Placement
from petlas.search.config import TrainConfig
from petlas.search.run_files import Folder
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity, ImageBatches
from petlas.search.training.augment import AUGMENTATIONS, AugmentedBatches, Mixed, crop, erase, flip, mix, shift
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pixels(count: int = 64, side: int = 16) -> Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8)


def batches(**train: Any) -> AugmentedBatches:
    images = pixels().numpy()
    data = ImageBatches(images, np.arange(64) % 10, InputConfig(16, (0.5,) * 3, (0.5,) * 3, "bicubic"), CPU)
    return AugmentedBatches(data, TrainConfig(**train))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_stay_images_and_the_seed_decides(name: str) -> None:
    images, draw = pixels(12), AUGMENTATIONS[name]
    before = images.clone()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(draw(images).float())
    first, again, other = drawn
    assert torch.equal(images, before)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 255
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in ("auto", "none"))


def test_half_of_the_images_are_mirrored() -> None:
    images = pixels(400, 4)
    drawn = flip(images)
    same = (drawn == images).flatten(1).all(1)
    mirrored = (drawn == images.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 140 < int(mirrored.sum()) < 260


def test_as_many_are_mirrored_as_asked_for() -> None:
    images = pixels(400, 4)
    assert 50 < int((flip(images, 0.2) != images).flatten(1).any(1).sum()) < 115


def test_images_are_moved_by_whole_pixels_in_all_directions_and_their_edges_repeat() -> None:
    images = pixels(200, 20)
    drawn = shift(images, 0.1)
    assert drawn.dtype == images.dtype
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    found = []
    for image, whole in zip(drawn, padded, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, whole[:, y : y + 20, x : x + 20])]
        assert len(places) == 1
        found += places
    assert len(set(found)) == 25
    assert torch.equal(shift(images, 0.02), images)  # less than half a pixel


def test_a_crop_is_a_part_of_its_own_image_at_full_size() -> None:
    """On a slope, a crop is a slope again, as steep as its width is a share of the whole."""
    across = torch.arange(32.0).expand(200, 3, 32, 32)
    steps = crop(across).diff(dim=-1)[:, 0, 8, 8:24].abs()
    assert torch.allclose(steps.amax(1), steps.amin(1), atol=1e-3)
    widths = steps.mean(1)
    assert 0.2 < widths.min() < 0.4
    assert 0.95 < widths.max() <= 1.0001
    levels = torch.arange(200.0).view(-1, 1, 1, 1).expand(200, 3, 32, 32)
    assert torch.allclose(crop(levels), levels)  # nothing of other images


def test_erased_boxes_are_as_many_and_as_large_as_asked_for() -> None:
    images = torch.full((600, 3, 40, 40), 7.0)
    changed = (erase(images, 0.25) != 7.0).any(1)
    hit = changed.flatten(1).any(1)
    assert 110 < int(hit.sum()) < 190
    areas = changed[hit].flatten(1).double().mean(1)
    assert 0.015 < areas.min() < 0.06
    assert 0.25 < areas.max() < 0.36
    for box in changed[hit][:20]:
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows[:, None] & columns[None])


def test_mixed_images_and_targets_have_the_same_shares() -> None:
    images, labels = torch.randn(8, 3, 10, 10), torch.arange(8)
    mixed, targets = mix(images.clone(), labels, 0.8, 0.0)
    assert isinstance(targets, Mixed)
    assert torch.allclose(mixed, targets.share * images + (1 - targets.share) * images.flip(0))
    for _ in range(10):
        mixed, targets = mix(images.clone(), labels, 0.0, 1.0)
        assert isinstance(targets, Mixed)
        own = (mixed == images).all(1)
        assert (own | (mixed == images.flip(0)).all(1)).all()
        assert own.double().mean().item() == pytest.approx(targets.share)
    assert len(targets) == 8
    kinds = {torch.equal(mix(images.clone(), labels, 1.0, 1.0)[0][..., 0, 0], images[..., 0, 0]) for _ in range(30)}
    assert kinds == {True, False}
    same, plain = mix(images, labels, 0.0, 0.0)
    assert same is images
    assert plain is labels


def test_batches_are_mirrored_and_moved_as_their_settings_say() -> None:
    data, pick = batches(hflip=0.3, shift=0.2), torch.arange(4, 12)
    torch.manual_seed(3)
    images, _ = data.batch(pick)
    torch.manual_seed(3)
    torch.testing.assert_close(images, shift(flip(data._data.raw(pick), 0.3), 0.2).float() / 127.5 - 1)


def test_batches_are_augmented_then_normalised() -> None:
    data = batches(augment="flip")
    pick = torch.arange(4, 12)
    torch.manual_seed(3)
    images, labels = data.batch(pick)
    torch.manual_seed(3)
    torch.testing.assert_close(images, flip(data._data.raw(pick)).float() / 127.5 - 1)
    assert isinstance(labels, Tensor)
    assert labels.tolist() == [4, 5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize(
    ("train", "drawn"),
    [
        ({}, False),
        ({"augment": "none"}, False),
        ({"label_smoothing": 0.1}, False),
        *(
            ({key: value}, True)
            for key, value in (
                ("augment", "crop"),
                ("hflip", 0.5),
                ("shift", 0.1),
                ("erasing", 0.1),
                ("mixup", 0.2),
                ("cutmix", 1),
            )
        ),
    ],
)
def test_what_counts_as_augmentation(train: dict[str, Any], drawn: bool) -> None:
    assert TrainConfig(**train).augments == drawn


def test_a_training_on_mixed_images_learns_the_shares_and_goes_on_where_it_was(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    drawn = {"augment": "crop", "erasing": 0.3, "mixup": 0.5, "cutmix": 1, "label_smoothing": 0.1}
    work = bench(train={"epochs": 2, "batch_size": 800, "amp": "off"} | drawn)

    def start(folder: str) -> TrainingRun:
        candidate = Candidate(Design.of([Placement("lora", 4, 2)], work.shape.name))
        return TrainingRun(work, candidate, Fidelity(2, 0), files=Folder(tmp_path / folder))

    whole = start("whole")
    assert isinstance(whole.data, AugmentedBatches)
    expected = [whole.epoch().loss for _ in range(2)]
    assert start("cut").epoch().loss == expected[0]
    rest = start("cut")
    rest.epoch()  # measures where it stands
    assert rest.epoch().loss == expected[1]
    logits, first, second = torch.randn(6, 10), torch.arange(6), torch.arange(6).flip(0)
    soft = 0.3 * F.one_hot(first, 10) + 0.7 * F.one_hot(second, 10)
    found = whole.loss(logits, Mixed(first, second, 0.3))
    torch.testing.assert_close(found, F.cross_entropy(logits, soft, label_smoothing=0.1))
