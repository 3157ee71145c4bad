from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_cases import few_images
from torch import Tensor

from petlas.petl import Design, Placement, tuned_state_dict
from petlas.petl.backbones.base import Family
from petlas.search.run_files import Folder
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.training import prefix as prefix_module
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]
EXACT = {"epochs": 2, "batch_size": 40, "amp": "off"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Streams of its own for each test."""
    monkeypatch.setattr(prefix_module, "cache_folder", lambda: tmp_path)
    return tmp_path / "prefix"


@pytest.fixture
def small(bench: Bench) -> Bench:
    """A run on a few of the images: batches of 40 and 16 to learn from, and one of 30 to measure on."""

    def small(**groups: Any) -> Workbench:
        return few_images(bench(**{"train": EXACT} | groups), 96, 30)

    return small


def start(work: Workbench, *placements: Placement, folder: Path | None = None) -> TrainingRun:
    design = Design.of(placements, work.shape.name)
    fidelity = Fidelity(work.config.train.epochs, 0)
    return TrainingRun(work, Candidate(design), fidelity, files=Folder(folder) if folder else None)


def numbers(run: TrainingRun, epochs: int = 2) -> list[tuple[float, float]]:
    return [(result.loss, result.val) for result in (run.epoch() for _ in range(epochs))]


def counted(run: TrainingRun, block: int) -> list[int]:
    """Fills up with the sizes of batches that a block computes."""
    sizes: list[int] = []
    forward = run.model.blocks[block].forward
    run.model.blocks[block].forward = lambda x: sizes.append(len(x)) or forward(x)  # type: ignore[func-returns-value]
    return sizes


@pytest.mark.parametrize(
    "placements",
    [[Placement("lora", 4, 2)], [], [Placement("last", None, 4)], [Placement("vqt", 5, 1), Placement("vpt", 3, 2)]],
)
def test_a_training_is_the_same_to_the_digit_with_it_and_without(small: Bench, placements: list[Placement]) -> None:
    without = start(small(resources={"cache_gb": 0}), *placements)
    expected = numbers(without)
    work = small()
    for run in (start(work, *placements), start(work, *placements)):
        assert numbers(run) == expected
        values = tuned_state_dict(run.model)
        assert all(torch.equal(values[name], value) for name, value in tuned_state_dict(without.model).items())


@pytest.mark.parametrize("backbone", ["swin_mini_patch4_64", "convnext_mini_64"])
def test_it_is_so_on_maps_too(small: Bench, backbone: str) -> None:
    placements = [Placement("adapter", 4, 2)]
    expected = numbers(start(small(backbone=backbone, resources={"cache_gb": 0}), *placements))
    assert numbers(start(small(backbone=backbone), *placements)) == expected


def test_leading_blocks_run_once_for_all_trials(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prefix_module.Verdicts.found
    monkeypatch.setattr(
        prefix_module.Verdicts, "found", lambda self, size, blocks, same: found(self, size, blocks, True)
    )
    work = small()
    run = start(work, Placement("adapter", 4, 2))
    sizes, behind = counted(run, 0), counted(run, 4)
    numbers(run)
    assert sorted(sizes) == [16, 30, 40]  # one batch of each size is computed in both ways
    assert sum(behind) == 2 * (96 + 30)
    again = counted(run := start(work, Placement("lora", 4, 1), Placement("vpt", 5, 1)), 0)
    numbers(run)
    assert not again


def test_a_deeper_stream_is_computed_from_the_deepest_one_that_is_kept(
    small: Bench, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, starts = small(), []
    run_prefix = prefix_module.run_prefix
    monkeypatch.setattr(
        prefix_module, "run_prefix", lambda *args: starts.append((args[3:], len(args[1]))) or run_prefix(*args)
    )
    start(work, Placement("lora", 2, 2))
    start(work, Placement("lora", 4, 2))
    batches = [((None,), 40)] * 4, [((2,), 40)] * 4
    assert starts == [((None,), 1), *batches[0], ((None,), 1), *batches[1]]
    whole = np.concatenate([np.load(path) for path in sorted(cache.glob("*-4-float32.npy"))])
    for path in cache.glob("*.npy"):
        path.unlink()
    start(work, Placement("lora", 4, 2))
    np.testing.assert_array_equal(whole, np.load(next(cache.glob("*-4-float32.npy"))))


def test_sizes_of_batches_at_which_a_digit_differs_are_computed_from_the_images(
    small: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = numbers(start(small(resources={"cache_gb": 0}), Placement("lora", 4, 2)))
    run_prefix = prefix_module.run_prefix

    def whole(model: Any, x: Tensor, *rest: Any) -> dict[int, Tensor]:
        """As where batches of 16 have digits of their own."""
        known = run_prefix(model, x, *rest)
        return {n: stream + (1e-6 if len(x) == 16 else 0) for n, stream in known.items()}

    monkeypatch.setattr(prefix_module, "run_prefix", whole)
    run = start(small(), Placement("lora", 4, 2))
    with caplog.at_level(logging.INFO, "petlas"):
        assert numbers(run) == expected
    assert caplog.text.count("off for batches of 16, whose digits") == 1
    assert isinstance(run.data.batch(torch.arange(16))[0], Tensor)


def test_a_view_gets_the_streams_of_its_own_images(small: Bench) -> None:
    run = start(small(), Placement("lora", 4, 2))
    assert run.val_data is not None
    pick = torch.arange(30).flip(0)
    data = run.bench.batches(run.bench.task.views["val"])
    computed = prefix_module.run_prefix(run.model, data.images(pick), run.val_data._known.prefix)  # type: ignore[attr-defined]
    streams, targets = run.val_data.batch(pick)
    if isinstance(streams, Tensor):
        pytest.skip("on this machine the digits depend on the size of a batch")
    torch.testing.assert_close(streams.known[4], computed[4])
    assert targets.tolist() == data.targets(pick).tolist()


def test_only_images_that_are_learned_from_are_kept(small: Bench, cache: Path) -> None:
    work = small()
    start(work, Placement("lora", 4, 2))
    (file,) = cache.glob("*.npy")
    assert len(np.load(file)) == len(work.task.views["trainval"])


@pytest.mark.parametrize(
    "changed",
    [{"train": EXACT | {"batch_size": 32}}, {"backbone": {"name": "vit_mini_patch16_64", "img_size": 48}}],
)
def test_what_changes_a_digit_is_kept_apart(small: Bench, cache: Path, changed: dict[str, Any]) -> None:
    for groups in ({"train": EXACT}, {"train": EXACT} | changed, {"train": EXACT | {"epochs": 5, "lr": 3e-3}}):
        start(small(**groups), Placement("lora", 4, 2))
    assert len(list(cache.glob("*.npy"))) == 2


def test_what_does_not_fit_is_left_out_in_one_line(small: Bench, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = small(resources={"cache_gb": 1e-5})
    with caplog.at_level(logging.INFO, "petlas"):
        runs = [start(work, Placement("lora", 4, 2)) for _ in range(2)]
    assert caplog.text.count("prefix cache: off for designs that leave 4 blocks alone") == 1
    assert isinstance(runs[0].data.batch(slice(0, 40))[0], Tensor)
    assert not list(cache.glob("*.npy"))


def test_a_backbone_that_does_not_run_in_parts_keeps_nothing_and_that_is_said_once(
    small: Bench, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = small()
    monkeypatch.setattr(Family, "gap", lambda family, model: "it is one piece")
    with caplog.at_level(logging.INFO, "petlas"):
        runs = [start(work, Placement("lora", 4, 2)) for _ in range(2)]
    assert caplog.text.count("does not run in parts: it is one piece") == 1
    assert isinstance(runs[1].data.batch(slice(0, 40))[0], Tensor)
    assert not list(cache.glob("*.npy"))


def test_a_folder_that_cannot_be_written_costs_no_trial(
    small: Bench, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = small(train=EXACT | {"epochs": 1})
    cache.write_text("no folder")
    run = start(work, Placement("lora", 4, 2))
    assert "prefix cache: off for this trial" in caplog.text
    assert numbers(run, 1)[0][0] > 0


def test_a_training_that_was_cut_off_goes_on_with_it_or_without(small: Bench, tmp_path: Path) -> None:
    placement = Placement("lora", 4, 2)
    with_it, without = small(), small(resources={"cache_gb": 0})
    expected = numbers(start(without, placement))
    for number, (first, second) in enumerate([(with_it, without), (without, with_it)]):
        folder = tmp_path / str(number)
        assert numbers(start(first, placement, folder=folder), 1) == expected[:1]
        assert numbers(start(second, placement, folder=folder), 2) == expected
