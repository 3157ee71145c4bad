from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from study_cases import few_images

from petlas.petl import Adapters, Design, Placement, groups, tuned_state_dict
from petlas.search.run_files import Folder
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity, PackTraining
from petlas.search.training import prefix as prefix_module
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]
EXACT = {"epochs": 2, "batch_size": 20, "amp": "off", "drop_path": 0.1}
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of its own for each test."""
    monkeypatch.setattr(prefix_module, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def small(bench: Bench) -> Bench:
    """A run on a few of the images: batches of 20 and 8 to learn from, and one of 12 to measure on."""

    def small(**groups: Any) -> Workbench:
        return few_images(bench(**{"train": EXACT} | groups), 28, 12)

    return small


def everywhere(method: str, size: int | None = 2, **options: Any) -> list[Placement]:
    return [Placement(method, block, size, tuple(options.items())) for block in range(6)]


def candidate(work: Workbench, placements: list[Placement], **settings: float) -> Candidate:
    return Candidate(Design.of(placements, work.shape.name), tuple(settings.items()))


def unlike(work: Workbench) -> list[tuple[Candidate, int]]:
    """Candidates that have little in common, and seeds."""
    return [
        (candidate(work, everywhere("lora", dropout=0.2), lr=3e-3), 0),
        (candidate(work, everywhere("adapter", 4)), 1),
        (candidate(work, [Placement("ssf", None)], weight_decay=0.3), 0),
        (candidate(work, everywhere("convpass", 4), lr=1e-2, label_smoothing=0.1), 2),
        (candidate(work, [Placement("bitfit", None)], hflip=0.5, shift=0.1), 1),
        (candidate(work, [Placement("lora", 3, 2), Placement("adaptformer", 4, 3), Placement("ssf", 5)]), 3),
    ]


def prompted(work: Workbench) -> list[tuple[Candidate, int]]:
    """Candidates with as many prompts in the same blocks."""
    prompts = everywhere("vpt", 3)
    return [(candidate(work, prompts), 0), (candidate(work, [*prompts, *everywhere("lora", 1)], lr=2e-3), 1)]


def deep(work: Workbench) -> list[tuple[Candidate, int]]:
    """Candidates that leave several leading blocks alone, not all of them as many."""
    places = {"lora": 3, "adapter": 5, "bitfit": 4}
    return [(candidate(work, [Placement(m, b, None if m == "bitfit" else 2)]), b) for m, b in places.items()]


class Together:
    """Trainings on one backbone, and what they gave."""

    def __init__(self, work: Workbench, members: list[tuple[Candidate, int]], folder: Path | None = None) -> None:
        self.host, files = Adapters(work.backbone()), Folder(folder) if folder else None
        self.runs = {
            f"m{n}": TrainingRun(work, own, Fidelity(2, seed), files=files, host=self.host, name=f"m{n}")
            for n, (own, seed) in enumerate(members)
        }
        self.pack = PackTraining(self.host, self.runs)

    def epoch(self, *names: str) -> dict[str, tuple[float, float]]:
        """Losses and values of all, or of those that are named."""
        self.pack.train_epoch(names or None)
        results = {name: self.runs[name].measured() for name in names or self.runs}
        return {name: (result.loss, result.val) for name, result in results.items()}


def alone(work: Workbench, members: list[tuple[Candidate, int]]) -> list[tuple[TrainingRun, list[tuple[float, float]]]]:
    """Trainings one by one, each with the losses and values of its epochs."""
    runs = [TrainingRun(work, own, Fidelity(2, seed)) for own, seed in members]
    return [(run, [(result.loss, result.val) for result in (run.epoch(), run.epoch())]) for run in runs]


def assert_same(run: TrainingRun, other: TrainingRun) -> None:
    """But for what is added to all keys: it changes nothing, so AdamW follows how its gradient of 0 is rounded."""
    values = tuned_state_dict(run.model)
    for path, value in tuned_state_dict(other.model).items():
        found, wanted = values[path], value
        if "attn.qkv" in path and value.ndim == 1:
            found, wanted = (torch.cat(v.chunk(3)[::2]) for v in (found, wanted))
        torch.testing.assert_close(found, wanted, **CLOSE)


def close(pair: tuple[float, float]) -> Any:
    return pytest.approx(pair, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("members", "cached"), [(unlike, 0), (prompted, 0), (deep, 1)])
def test_each_of_a_pack_learns_what_it_learns_alone(small: Bench, members: Any, cached: float) -> None:
    work = small(resources={"cache_gb": cached}, train=EXACT | ({"drop_path": 0} if cached else {}))
    together = Together(work, members(work))
    assert len(groups(together.host, together.runs)[0]) == 1
    found = [together.epoch(), together.epoch()]
    for (name, run), (other, expected) in zip(together.runs.items(), alone(work, members(work)), strict=True):
        assert [epoch[name] for epoch in found] == [close(pair) for pair in expected]
        assert_same(run, other)


def test_who_ends_diverges_or_is_stopped_leaves_and_the_others_go_on(small: Bench, tmp_path: Path) -> None:
    """One has had an epoch before, one diverges in its first, one is stopped after it."""
    work = small()
    members = [(own, seed) for own, seed in unlike(work)[:4]]
    members[1] = (candidate(work, everywhere("lora"), lr=1e30), 1)
    first = TrainingRun(work, members[0][0], Fidelity(2, members[0][1]), files=Folder(tmp_path))
    first.train_epoch()
    together = Together(work, members, tmp_path)
    found = together.epoch()
    assert together.runs["m0"].finished and together.runs["m1"].diverged and math.isnan(found["m1"][1])
    found |= together.epoch("m0", "m1", "m3")
    assert [run.progress.epochs for run in together.runs.values()] == [2, 1, 1, 2]
    expected = alone(work, members)
    for name, (_, epochs), last in zip(together.runs, expected, (1, None, 0, 1), strict=True):
        if last is not None:
            assert found[name] == close(epochs[last])
    for name, number in (("m0", 0), ("m3", 3)):
        assert_same(together.runs[name], expected[number][0])


def test_what_is_augmented_and_clipped_is_drawn_for_each(small: Bench) -> None:
    work = small(train=EXACT | {"epochs": 2, "augment": "flip", "mixup": 0.4, "erasing": 0.3, "clip_grad": 0.5})
    members = unlike(work)[:2]
    together = Together(work, members)
    found = [together.epoch(), together.epoch()]
    for name, (_, expected) in zip(together.runs, alone(work, members), strict=True):
        assert [epoch[name] for epoch in found] == [close(pair) for pair in expected]


def test_a_training_that_was_cut_off_goes_on_alone_and_one_alone_in_a_pack(small: Bench, tmp_path: Path) -> None:
    work = small()
    members = unlike(work)[1:3]
    expected = [epochs for _, epochs in alone(work, members)]
    Together(work, members, tmp_path).epoch()
    (own, seed), other = members[0], Together(work, members, tmp_path)
    run = TrainingRun(work, own, Fidelity(2, seed), files=Folder(tmp_path))
    assert run.progress.epochs == 1 and run.unmeasured
    run.measured()
    result = run.epoch()
    assert (result.loss, result.val) == close(expected[0][1])
    assert list(other.epoch().values()) == [close(epochs[1]) for epochs in expected]
