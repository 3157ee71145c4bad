"""No GPU is here: torch.cuda is a stand-in."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from petlas.search.stages import footprint as footprint_module
from petlas.search.stages.footprint import measure_footprint
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


def test_without_a_gpu_nothing_is_measured(bench: Bench) -> None:
    assert measure_footprint(bench(resources={"gpus": 0})) is None


def test_the_largest_design_is_trained_for_a_step_and_measured_on_a_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench(train={"batch_size": 10, "epochs": 5})
    steps: list[int] = []

    class Run(footprint_module.TrainingRun):
        def accumulate(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            assert self.candidate.design == work.space.largest
            steps.append(len(images))
            return super().accumulate(images, targets)

    class Gpu:
        """The CPU under another name."""

        type = "cuda"

    monkeypatch.setattr(footprint_module, "TrainingRun", Run)
    work.device = torch.device("cpu")
    shown = SimpleNamespace(**vars(work))
    for name in ("space", "config", "task", "batches"):
        setattr(shown, name, getattr(work, name))
    shown.device = Gpu()
    monkeypatch.setattr(footprint_module, "TrainingRun", lambda bench, *args: Run(work, *args))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * 10**9))
    needed, total = measure_footprint(shown) or (0, 0)  # type: ignore[arg-type]
    assert steps == [10]
    assert 10**9 < needed < 2 * 10**9
    assert total == 24 * 10**9
